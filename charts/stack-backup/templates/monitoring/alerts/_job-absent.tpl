{{/* Nobody knows the CronJob: it is gone, or kube-state-metrics is, and then no other alert about Jobs can fire. */}}
{{- define "stack-backup.alert.jobAbsent" -}}
{{- range $name, $job := .jobs }}
- labels: {cronjob: {{ $name }}}
  expr: absent(kube_cronjob_created{ {{- $job.series -}} })
  for: 15m
  summary: {{ $name }} of {{ $.context.Release.Namespace }} is not there
  description: >-
    kube-state-metrics knows no such CronJob. Either it was deleted, or kube-state-metrics is down, is not scraped, or does not
    collect CronJobs of this namespace: then nobody would notice a failure.
{{- end }}
{{- end }}
