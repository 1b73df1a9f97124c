{{/* The CronJob has been there for longer than one run may take to succeed, and none ever did. */}}
{{- define "stack-backup.alert.jobNeverSucceeded" -}}
{{- range $name, $job := .jobs }}
{{- if $job.scheduled }}
- labels: {cronjob: {{ $name }}}
  expr: |
    time() - max(kube_cronjob_created{ {{- $job.series -}} }) > {{ int64 $job.allowed }}
    unless {{ include "stack-backup.lastSuccess" $job.series }}
  for: 5m
  summary: {{ $name }} of {{ $.context.Release.Namespace }} has never succeeded
  description: >-
    The CronJob was made {{ "{{ $value | humanizeDuration }}" }} ago. A first success should have come within
    {{ include "stack-backup.span" $job.allowed }}.
{{- end }}
{{- end }}
{{- end }}
