{{/* Little room is left, however slowly it is used up. */}}
{{- define "stack-backup.alert.volumeLow" -}}
{{- $percent := .context.Values.monitoring.alerts.volumeFreePercent }}
{{- range $volume, $name := include "stack-backup.writers" .jobs | fromJson }}
{{- $series := (get $.jobs $name).series }}
- labels: {cronjob: {{ $name }}, volume: {{ $volume }}}
  expr: 100 * max(stack_backup_volume_free_bytes{ {{- $series -}} }) / max(stack_backup_volume_size_bytes{ {{- $series -}} }) < {{ $percent }}
  for: 15m
  summary: Volume {{ $volume }} of {{ $.context.Release.Namespace }} has {{ "{{ $value | printf \"%.0f\" }}" }} % left
  description: >-
    Less than {{ $percent }} % are told of (monitoring.alerts.volumeFreePercent). A full volume makes every run red; no dump is ever
    deleted to free space.
{{- end }}
{{- end }}
