{{/* Days until the volume is full, if it goes on as it did. */}}
{{- define "stack-backup.alert.volumeFilling" -}}
{{- $days := .context.Values.monitoring.alerts.volumeDaysToFull }}
{{- range $volume, $name := include "stack-backup.writers" .jobs | fromJson }}
- labels: {cronjob: {{ $name }}, volume: {{ $volume }}}
  expr: max(stack_backup_volume_days_to_full{ {{- (get $.jobs $name).series -}} }) < {{ $days }}
  for: 15m
  summary: Volume {{ $volume }} of {{ $.context.Release.Namespace }} will be full in {{ "{{ $value | printf \"%.0f\" }}" }} days
  description: >-
    That is what its free space over the last runs of {{ $name }} comes to; less than {{ $days }} days are told of
    (monitoring.alerts.volumeDaysToFull). A full volume makes every run red; no dump is ever deleted to free space.
{{- end }}
{{- end }}

{{/*
The volumes whose room the verdicts tell, each with the job that writes there most often, and so knows it best. What is small
and bounded (the history, what replica-check remembers) is told by no verdict.
*/}}
{{- define "stack-backup.writers" -}}
{{- $writers := dict }}
{{- range $name, $job := . }}
{{- range $mount := $job.mounts }}
{{- if and $job.scheduled $mount.written (has $mount.volume (list "databaseBackup" "databaseReplica" "mediaReplica")) }}
{{- if or (not (hasKey $writers $mount.volume)) (lt $job.allowed (get $ (get $writers $mount.volume)).allowed) }}
{{- $_ := set $writers $mount.volume $name }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $writers }}
{{- end }}
