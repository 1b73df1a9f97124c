{{/* The newest dump that was proved to be restorable is older than dumps may be at a drill, and drills apart. */}}
{{- define "stack-backup.alert.drillStale" -}}
{{- with get .jobs "database-drill" }}
{{- $limit := add .settings.maximumAgeSeconds .allowed }}
- labels: {cronjob: database-drill}
  expr: time() - max(stack_backup_drill_timestamp_seconds{ {{- .series -}} }) > {{ $limit }}
  for: 5m
  summary: The newest dump of {{ $.context.Release.Namespace }} that a drill has proved is {{ "{{ $value | humanizeDuration }}" }} old
  description: >-
    databaseDrill.maximumAgeSeconds and the schedule allow {{ include "stack-backup.span" $limit }}. No newer dump has been
    restored and counted.
{{- end }}
{{- end }}
