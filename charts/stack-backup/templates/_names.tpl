{{/* Names. Those of jobs and claims are the contract's; one release per namespace, so they need no prefix. */}}

{{- define "stack-backup.programs" -}}stack-backup-programs{{- end }}

{{- define "stack-backup.databaseBackupClaim" -}}
{{- .Values.volumes.databaseBackup.existingClaim | default "database-backup" }}
{{- end }}

{{- define "stack-backup.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary "stack-backup" "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "stack-backup.selectorLabels" -}}
app.kubernetes.io/name: stack-backup
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "stack-backup.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "stack-backup.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "stack-backup.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end }}
{{- end }}
