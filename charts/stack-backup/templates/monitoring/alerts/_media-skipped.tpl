{{/* The copy is complete but for files that could not be copied. */}}
{{- define "stack-backup.alert.mediaSkipped" -}}
{{- range $name := list "media-replicator" "offsite" }}
{{- with get $.jobs $name }}
{{- if or (eq $name "media-replicator") .settings.media }}
- labels: {cronjob: {{ $name }}}
  expr: max(stack_backup_media_exceptions{ {{- .series -}} }) > 0
  summary: Media files of {{ $.context.Release.Namespace }} were not copied by {{ $name }} ({{ "{{ $value }}" }})
  description: >-
    They are not in the newest complete copy, and a recovery would not bring them back. The run's verdict and log name them.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
