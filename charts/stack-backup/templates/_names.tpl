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

{{- define "stack-backup.historyClaim" -}}
{{- .Values.volumes.history.existingClaim | default "history" }}
{{- end }}

{{- define "stack-backup.replicaCheckClaim" -}}
{{- .Values.volumes.replicaCheck.existingClaim | default "replica-check" }}
{{- end }}

{{- define "stack-backup.mediaClaim" -}}
{{- .Values.volumes.media.existingClaim }}
{{- end }}

{{- define "stack-backup.databaseReplicaClaim" -}}
{{- include "stack-backup.replicaClaim" (dict "context" . "volume" "databaseReplica") }}
{{- end }}

{{- define "stack-backup.mediaReplicaClaim" -}}
{{- include "stack-backup.replicaClaim" (dict "context" . "volume" "mediaReplica") }}
{{- end }}

{{/*
The claim of a replica. A volume's source cannot be changed, nor what a claim is bound to: so the names hold a digest of
all that is in the source, and another export is another pair of them.
*/}}
{{- define "stack-backup.replicaClaim" -}}
{{- $volume := index .context.Values.volumes .volume }}
{{- $written := eq "written" (include "stack-backup.volumes" .context | fromJson | dig .volume "") }}
{{- $volume.existingClaim | default (printf "%s-%s" (kebabcase .volume) (toJson (list $volume.nfs $volume.size $written) | sha256sum | trunc 8)) }}
{{- end }}

{{- define "stack-backup.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary "stack-backup" "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "stack-backup.selectorLabels" -}}
app.kubernetes.io/name: stack-backup
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* The labels of an object: context; component and further labels, where it has them. */}}
{{- define "stack-backup.labelsOf" -}}
{{- $further := deepCopy (.labels | default dict) }}
{{- include "stack-backup.fill" (dict "into" $further "from" .context.Values.commonLabels) -}}
helm.sh/chart: {{ printf "%s-%s" .context.Chart.Name .context.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "stack-backup.selectorLabels" .context }}
app.kubernetes.io/version: {{ .context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .context.Release.Service }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- with $further }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "stack-backup.labels" -}}
{{- include "stack-backup.labelsOf" (dict "context" .) }}
{{- end }}

{{/* An image: context, image. The registry of all images takes the place of one that the image names. */}}
{{- define "stack-backup.image" -}}
{{- $name := .image.repository }}
{{- with .context.Values.global.imageRegistry }}
{{- $name = printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^(localhost|[^/]*[.:][^/]*)/" $name "") }}
{{- end }}
{{- if .image.digest }}{{ $name }}@{{ .image.digest }}{{ else }}{{ $name }}:{{ .image.tag }}{{ end }}
{{- end }}

{{/* A quantity such as 120Gi in whole MiB. */}}
{{- define "stack-backup.mebibytes" -}}
{{- $factors := dict "Ki" 0.0009765625 "Mi" 1.0 "Gi" 1024.0 "Ti" 1048576.0 "Pi" 1073741824.0 "k" 0.00095367431640625 "M" 0.95367431640625 "G" 953.67431640625 "T" 953674.31640625 "P" 953674316.40625 -}}
{{- $unit := regexFind "[A-Za-z]+$" . -}}
{{- $number := trimSuffix $unit . | float64 -}}
{{- mulf $number (ternary (index $factors $unit) 0.00000095367431640625 (hasKey $factors $unit)) | floor | int64 -}}
{{- end }}

{{/* The same in bytes; nothing of nothing. */}}
{{- define "stack-backup.bytes" -}}
{{- if . }}{{ mul 1048576 (include "stack-backup.mebibytes" . | int64) }}{{ end }}
{{- end }}

{{/* Cores such as 2, 0.5 or 500m in whole thousandths. */}}
{{- define "stack-backup.millicores" -}}
{{- mulf (trimSuffix "m" . | float64) (hasSuffix "m" . | ternary 1 1000) | floor | int64 -}}
{{- end }}

{{/* A time such as 30s or 2m in seconds. */}}
{{- define "stack-backup.durationSeconds" -}}
{{- mul (regexFind "^[0-9]+" . | int64) (hasSuffix "m" . | ternary 60 1) -}}
{{- end }}
