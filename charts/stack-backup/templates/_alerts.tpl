{{/*
What the alerts share. monitoring/alerts has a template for each key of monitoring.alerts.severity: it gives the alert's rules,
a list of {cronjob, further labels, expr, for, summary, description}. All thresholds come from the jobs' own values.
*/}}

{{/* The page of an alert's runbook: its key with dashes. */}}
{{- define "stack-backup.runbook" -}}
{{- replace "%s" (kebabcase .alert) .context.Values.monitoring.alerts.runbookUrl }}
{{- end }}

{{/*
The jobs as alerts see them, by name: the table's entry, and
  settings  of its section
  series    the labels of its series, of kube-state-metrics' and of the exporter's
  jobs      the labels of the series that say which Jobs are its own
  scheduled whether it runs by itself
  allowed   the most seconds between the ends of two good runs: the longest gap of the schedule, a late start and the deadline
*/}}
{{- define "stack-backup.watched" -}}
{{- $found := dict }}
{{- range $name, $job := include "stack-backup.jobs" . | fromYaml }}
{{- $settings := include "stack-backup.settings" (dict "context" $ "job" $job) | fromJson }}
{{- $allowed := 0 }}
{{- if $settings.schedule }}
{{- $gap := include "stack-backup.longestGap" $settings | int64 }}
{{- $allowed = add $gap $settings.startingDeadlineSeconds $settings.deadlineSeconds }}
{{- end }}
{{- $_ := set $found $name (dict
    "mounts" $job.mounts
    "settings" $settings
    "series" (printf "namespace=%q,cronjob=%q" $.Release.Namespace $name)
    "jobs" (printf "namespace=%q,owner_kind=\"CronJob\",owner_name=%q" $.Release.Namespace $name)
    "scheduled" (not (empty $settings.schedule))
    "allowed" $allowed) }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{/* The newest success of a job, as kube-state-metrics or the exporter knows it: its `series`. */}}
{{- define "stack-backup.lastSuccess" -}}
max({__name__=~"kube_cronjob_status_last_successful_time|stack_backup_last_success_timestamp_seconds",{{ . }}})
{{- end }}

{{/* Seconds as a reader has them: 1d 2h 55m. */}}
{{- define "stack-backup.span" -}}
{{- $seconds := int64 . }}
{{- $parts := list }}
{{- range $unit, $length := dict "d" 86400 "h" 3600 "m" 60 }}
{{- $count := div $seconds $length }}
{{- if ne $unit "d" }}
{{- $count = mod $count (ternary 24 60 (eq $unit "h")) }}
{{- end }}
{{- if $count }}
{{- $parts = append $parts (printf "%d%s" $count $unit) }}
{{- end }}
{{- end }}
{{- join " " $parts }}
{{- end }}
