{{/* No facts: then no alert that is made of them can fire. */}}
{{- define "stack-backup.alert.exporterAbsent" -}}
{{- $facts := printf "stack_backup_exporter_history_read_timestamp_seconds{namespace=%q}" .context.Release.Namespace }}
- expr: absent({{ $facts }}) or time() - max({{ $facts }}) > 900
  for: 15m
  summary: The metrics exporter of {{ .context.Release.Namespace }} tells nothing
  description: >-
    It is not there, is not scraped, or has not been able to read the history for more than 15 minutes. Age, size and proof of the
    backups are unknown meanwhile.
{{- end }}
