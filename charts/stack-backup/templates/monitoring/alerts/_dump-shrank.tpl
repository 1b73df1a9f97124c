{{/* Far less data than an hour ago: somebody may have deleted it. The older dumps are kept meanwhile. */}}
{{- define "stack-backup.alert.dumpShrank" -}}
{{- with get .jobs "postgres-backup-hourly" }}
- labels: {cronjob: postgres-backup-hourly}
  expr: max(stack_backup_dump_suspicious{ {{- .series -}} }) > 0
  summary: The newest dump of {{ $.context.Release.Namespace }} holds far less than the one before
  description: >-
    It has less than {{ .settings.minimumShare }} % of the content (postgresBackupHourly.minimumShare). No older dump is removed
    until somebody says that this is right.
{{- end }}
{{- end }}
