{{/*
A Job of the schedule failed after the last success. Where kube-state-metrics has lost sight of the Job (it was removed, or
Jobs are not collected), the exporter still knows the exit code; a run that is at work may mend that.
*/}}
{{- define "stack-backup.alert.jobFailed" -}}
{{- range $name, $job := .jobs }}
{{- if $job.scheduled }}
- labels: {cronjob: {{ $name }}}
  expr: |
    max(
      kube_job_status_start_time{namespace={{ $.context.Release.Namespace | quote }}}
      and on (job_name) kube_job_owner{ {{- $job.jobs -}} }
      and on (job_name) (kube_job_failed{namespace={{ $.context.Release.Namespace | quote }},condition="true"} == 1)
    ) > ({{ include "stack-backup.lastSuccess" $job.series }} or vector(0))
    or
    (max(stack_backup_last_exit_code{ {{- $job.series -}} }) > 0 unless max(kube_cronjob_status_active{ {{- $job.series -}} }) > 0)
  summary: {{ $name }} of {{ $.context.Release.Namespace }} failed
  description: >-
    Its last run failed, and none has succeeded since. The run's verdict says why: `stack-backup status --namespace
    {{ $.context.Release.Namespace }}` shows it.
{{- end }}
{{- end }}
{{- end }}
