{{/* The newest dump was not proved: it may not be one that can be restored. */}}
{{- define "stack-backup.alert.drillRed" -}}
{{- with get .jobs "database-drill" }}
- labels: {cronjob: database-drill}
  expr: max(stack_backup_last_exit_code{ {{- .series -}} }) > 0
  summary: The last restore drill of {{ $.context.Release.Namespace }} failed
  description: >-
    It ended with exit code {{ "{{ $value }}" }}. Until a drill succeeds, nobody knows whether the newest dumps can be restored.
{{- end }}
{{- end }}
