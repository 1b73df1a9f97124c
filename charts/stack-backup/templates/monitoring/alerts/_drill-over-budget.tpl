{{/* The recovery takes longer, or would lose more, than the stack's owners have agreed to. */}}
{{- define "stack-backup.alert.drillOverBudget" -}}
{{- with get .jobs "database-drill" }}
- labels: {cronjob: database-drill}
  expr: max by (budget) (stack_backup_budget_exceeded{ {{- .series -}} }) > 0
  summary: A recovery of {{ $.context.Release.Namespace }} would exceed its budget
  description: >-
    The last drill that proved a dump exceeded databaseDrill.budget.{{ "{{ $labels.budget }}" }}.
{{- end }}
{{- end }}
