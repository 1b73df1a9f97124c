{{/* Past its deadline by ten minutes: the pod cannot be ended, and with Forbid no other run starts. */}}
{{- define "stack-backup.alert.jobRunningTooLong" -}}
{{- range $name, $job := .jobs }}
- labels: {cronjob: {{ $name }}}
  expr: |
    time() - min(
      kube_job_status_start_time{namespace={{ $.context.Release.Namespace | quote }}}
      and on (job_name) kube_job_owner{ {{- $job.jobs -}} }
      unless on (job_name) ({__name__=~"kube_job_complete|kube_job_failed",namespace={{ $.context.Release.Namespace | quote }},condition="true"} == 1)
    ) > {{ add $job.settings.deadlineSeconds 600 }}
  summary: A run of {{ $name }} of {{ $.context.Release.Namespace }} does not end
  description: >-
    It started {{ "{{ $value | humanizeDuration }}" }} ago, and its deadline is {{ include "stack-backup.span" $job.settings.deadlineSeconds }}.
    As long as it is there, no other run starts.
{{- end }}
{{- end }}
