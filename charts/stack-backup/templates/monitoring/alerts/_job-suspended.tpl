{{/* By the values or by hand: a job that is forgotten so is the backup that nobody has. */}}
{{- define "stack-backup.alert.jobSuspended" -}}
{{- range $name, $job := .jobs }}
{{- if $job.scheduled }}
- labels: {cronjob: {{ $name }}}
  expr: max(kube_cronjob_spec_suspend{ {{- $job.series -}} }) > 0
  for: 1h
  summary: {{ $name }} of {{ $.context.Release.Namespace }} is suspended
  description: It has not run by its schedule for an hour, and will not until somebody resumes it.
{{- end }}
{{- end }}
{{- end }}
