{{/* Mirrors are begun, perhaps, but none has come to its end: the replica mixes two days. */}}
{{- define "stack-backup.alert.mediaUnfinished" -}}
{{- with get .jobs "media-replicator" }}
- labels: {cronjob: media-replicator}
  expr: time() - max(stack_backup_media_complete_timestamp_seconds{ {{- .series -}} }) > {{ int64 .allowed }}
  for: 5m
  summary: The last complete media mirror of {{ $.context.Release.Namespace }} ended {{ "{{ $value | humanizeDuration }}" }} ago
  description: >-
    Schedule and deadline allow {{ include "stack-backup.span" .allowed }}. The replica may be in progress since then, and mix files
    of two days.
{{- end }}
{{- end }}
