{{/*
The replicas' newest restore points, by their own times: the producer knows what it copied last, replica-check what there is in
this cluster. Both know of it as late as their own next run.
*/}}
{{- define "stack-backup.alert.replicaStale" -}}
{{- with get .jobs "postgres-replicator-backup" }}
{{- include "stack-backup.stale" (dict "context" $.context "job" . "name" "postgres-replicator-backup" "data" "database" "series" "stack_backup_dump_timestamp_seconds" "age" .settings.maximumAgeSeconds) }}
{{- end }}
{{- with get .jobs "replica-check" }}
{{- if .settings.database }}
{{- include "stack-backup.stale" (dict "context" $.context "job" . "name" "replica-check" "data" "database" "series" "stack_backup_dump_timestamp_seconds" "age" .settings.maximumAgeSeconds) }}
{{- end }}
{{- if .settings.media }}
{{- include "stack-backup.stale" (dict "context" $.context "job" . "name" "replica-check" "data" "media" "series" "stack_backup_media_complete_timestamp_seconds" "age" .settings.mediaMaximumAgeSeconds) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "stack-backup.stale" }}
{{- $limit := add .age .job.allowed }}
- labels: {cronjob: {{ .name }}, data: {{ .data }}}
  expr: time() - max({{ .series }}{ {{- .job.series -}} }) > {{ $limit }}
  for: 5m
  summary: The {{ .data }} replica of {{ .context.Release.Namespace }} is {{ "{{ $value | humanizeDuration }}" }} old
  description: >-
    That is the age of the newest complete copy that {{ .name }} knows of. The maximum age and the schedule allow
    {{ include "stack-backup.span" $limit }}. The other cluster could recover nothing newer.
{{- end }}
