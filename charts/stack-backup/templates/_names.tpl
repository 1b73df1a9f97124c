{{/* Names. Those of jobs and claims are the contract's; one release per namespace, so they need no prefix. */}}

{{/* The programs' name carries their digest: a running pod never gets files of another version beside its own. */}}
{{- define "stack-backup.programs" -}}
stack-backup-programs-{{ include "stack-backup.programFiles" . | sha256sum | trunc 8 }}
{{- end }}

{{/* A schedule: context, schedule. The minute H is one that the namespace has for good, so that many stacks are spread. */}}
{{- define "stack-backup.schedule" -}}
{{- $minute := mod (adler32sum (sha256sum .context.Release.Namespace) | int64) 60 }}
{{- regexReplaceAll "^H " .schedule (printf "%d " $minute) }}
{{- end }}

{{/* A key of a ConfigMap has no slash: a path with its slashes as dots. */}}
{{- define "stack-backup.programFiles" -}}
{{- range $path, $content := .Files.Glob "files/**" }}
{{ trimPrefix "files/" $path | replace "/" "." }}: {{ toString $content | toJson }}
{{- end }}
{{- end }}

{{- define "stack-backup.sql" -}}stack-backup-sql{{- end }}

{{- define "stack-backup.databaseBackupClaim" -}}
{{- .Values.volumes.databaseBackup.existingClaim | default "database-backup" }}
{{- end }}

{{- define "stack-backup.replicaCheckClaim" -}}
{{- .Values.volumes.replicaCheck.existingClaim | default "replica-check" }}
{{- end }}

{{- define "stack-backup.databaseReplicaClaim" -}}
{{- include "stack-backup.replicaClaim" (dict "name" "database-replica" "volume" .Values.volumes.databaseReplica "written" .Values.databaseReplica.enabled) }}
{{- end }}

{{- define "stack-backup.mediaReplicaClaim" -}}
{{- include "stack-backup.replicaClaim" (dict "name" "media-replica" "volume" .Values.volumes.mediaReplica "written" .Values.mediaReplica.enabled) }}
{{- end }}

{{/*
The claim of a replica. A volume's source cannot be changed, nor what a claim is bound to: so the names hold a digest of
all that is in the source, and another export is another pair of them.
*/}}
{{- define "stack-backup.replicaClaim" -}}
{{- .volume.existingClaim | default (printf "%s-%s" .name (toJson (list .volume.nfs .volume.size .written) | sha256sum | trunc 8)) }}
{{- end }}

{{/* Which volumes the release's jobs mount: `true` or nothing. */}}
{{- define "stack-backup.usesDatabaseBackup" -}}
{{- with .Values }}{{ if or .backup.enabled .tiers.enabled .databaseReplica.enabled .drill.enabled .offsite.enabled (and .databaseRecovery.enabled (eq .databaseRecovery.source "backup")) }}true{{ end }}{{ end }}
{{- end }}

{{- define "stack-backup.usesDatabaseReplica" -}}
{{- with .Values }}{{ if or .databaseReplica.enabled (and .replicaCheck.enabled .replicaCheck.database) (and .databaseRecovery.enabled (eq .databaseRecovery.source "replica")) }}true{{ end }}{{ end }}
{{- end }}

{{- define "stack-backup.usesMediaReplica" -}}
{{- with .Values }}{{ if or .mediaReplica.enabled (and .replicaCheck.enabled .replicaCheck.media) .mediaRecovery.enabled (and .drill.enabled .drill.references) }}true{{ end }}{{ end }}
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
