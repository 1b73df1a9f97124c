{{/* As the history knows it: also where kube-state-metrics has never seen the job. */}}
{{- define "stack-backup.alert.offsiteStale" -}}
{{- with get .jobs "offsite" }}
- labels: {cronjob: offsite}
  expr: time() - max(stack_backup_last_success_timestamp_seconds{ {{- .series -}} }) > {{ int64 .allowed }}
  for: 5m
  summary: The off-site copy of {{ $.context.Release.Namespace }} is {{ "{{ $value | humanizeDuration }}" }} old
  description: >-
    Schedule and deadline allow {{ include "stack-backup.span" .allowed }} between two complete copies. What has been dumped since is
    in these two clusters alone.
{{- end }}
{{- end }}
