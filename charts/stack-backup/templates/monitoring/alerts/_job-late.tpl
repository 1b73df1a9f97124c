{{/* No success for longer than schedule, startingDeadlineSeconds and deadlineSeconds allow, whatever the reason. */}}
{{- define "stack-backup.alert.jobLate" -}}
{{- range $name, $job := .jobs }}
{{- if $job.scheduled }}
- labels: {cronjob: {{ $name }}}
  expr: time() - {{ include "stack-backup.lastSuccess" $job.series }} > {{ int64 $job.allowed }}
  for: 5m
  summary: {{ $name }} of {{ $.context.Release.Namespace }} has not succeeded for {{ "{{ $value | humanizeDuration }}" }}
  description: >-
    Between two successes, its schedule ({{ $job.settings.schedule }}), startingDeadlineSeconds and deadlineSeconds allow
    {{ include "stack-backup.span" $job.allowed }}. No run may have started at all.
{{- end }}
{{- end }}
{{- end }}
