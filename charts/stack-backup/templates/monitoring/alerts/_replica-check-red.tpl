{{/* What the other cluster would recover from is damaged, old or not there, or nobody can tell. */}}
{{- define "stack-backup.alert.replicaCheckRed" -}}
{{- with get .jobs "replica-check" }}
- labels: {cronjob: replica-check}
  expr: max(stack_backup_last_exit_code{ {{- .series -}} }) > 0
  for: 15m
  summary: The replicas are not sound, as replica-check of {{ $.context.Release.Namespace }} says
  description: >-
    Its last run ended with exit code {{ "{{ $value }}" }}. Its verdict says which replica, and what is wrong with it.
{{- end }}
{{- end }}
