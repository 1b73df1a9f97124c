{{/* What a schema cannot say. Each guard fails with a sentence that names the values and what to do. */}}

{{/* A quantity such as 120Gi in whole MiB. */}}
{{- define "stack-backup.mebibytes" -}}
{{- $factors := dict "Ki" 0.0009765625 "Mi" 1.0 "Gi" 1024.0 "Ti" 1048576.0 "Pi" 1073741824.0 "k" 0.00095367431640625 "M" 0.95367431640625 "G" 953.67431640625 "T" 953674.31640625 "P" 953674316.40625 -}}
{{- $unit := regexFind "[A-Za-z]+$" . -}}
{{- $number := trimSuffix $unit . | float64 -}}
{{- mulf $number (ternary (index $factors $unit) 0.00000095367431640625 (hasKey $factors $unit)) | floor | int64 -}}
{{- end }}

{{/* Room for dumps: values, claim (its key), volume, kept (their number), who (the values that say so). */}}
{{- define "stack-backup.room" -}}
{{- $have := include "stack-backup.mebibytes" .volume.size | int64 }}
{{- $one := include "stack-backup.mebibytes" .values.backup.dumpSize | int64 }}
{{- $need := div (mul $one (add .kept 1) 13) 10 }}
{{- if lt $have $need }}
{{- fail (printf "volumes.%s.size is %s, but %s dumps of backup.dumpSize %s, one being written and a reserve of 30 %% need %dMi: make the volume larger or keep fewer dumps." .claim .volume.size .who .values.backup.dumpSize $need) }}
{{- end }}
{{- end }}

{{/* The volume of a replica that a job needs: key, volume. */}}
{{- define "stack-backup.hasPlace" -}}
{{- if not (or .volume.existingClaim .volume.nfs.server) }}
{{- fail (printf "volumes.%s names neither nfs.server nor existingClaim, and a job that is enabled needs it: name one of them." .key) }}
{{- end }}
{{- end }}

{{/* A job that replaces data: namespace, key, values. */}}
{{- define "stack-backup.confirmed" -}}
{{- if and .values.confirm (ne .values.confirm .namespace) }}
{{- fail (printf "%s.confirm is %q, but this release is in namespace %q: what is replaced must be named." .key .values.confirm .namespace) }}
{{- end }}
{{- if and .values.schedule (not .values.confirm) }}
{{- fail (printf "%s.schedule is %q, but %s.confirm is empty: a recovery that runs by itself must name the namespace %q." .key .values.schedule .key .namespace) }}
{{- end }}
{{- end }}

{{- define "stack-backup.guards" -}}
{{- $namespace := .Release.Namespace }}
{{- $replica := include "stack-backup.usesDatabaseReplica" . }}
{{- $media := include "stack-backup.usesMediaReplica" . }}
{{- with .Values }}
{{- if and .backup.enabled (not .volumes.databaseBackup.existingClaim) }}
{{- $kept := int64 .backup.keep }}
{{- $who := printf "backup.keep %v" .backup.keep }}
{{- if .tiers.enabled }}
{{- $kept = add $kept .tiers.daily.keep .tiers.weekly.keep .tiers.monthly.keep }}
{{- $who = printf "%s and %v daily, %v weekly and %v monthly (tiers)" $who .tiers.daily.keep .tiers.weekly.keep .tiers.monthly.keep }}
{{- end }}
{{- include "stack-backup.room" (dict "values" . "claim" "databaseBackup" "volume" .volumes.databaseBackup "kept" $kept "who" $who) }}
{{- end }}
{{- if and .databaseReplica.enabled (not .volumes.databaseReplica.existingClaim) }}
{{- include "stack-backup.room" (dict "values" . "claim" "databaseReplica" "volume" .volumes.databaseReplica "kept" (int64 .databaseReplica.keep) "who" (printf "databaseReplica.keep %v" .databaseReplica.keep)) }}
{{- end }}
{{- if $replica }}
{{- include "stack-backup.hasPlace" (dict "key" "databaseReplica" "volume" .volumes.databaseReplica) }}
{{- end }}
{{- if $media }}
{{- include "stack-backup.hasPlace" (dict "key" "mediaReplica" "volume" .volumes.mediaReplica) }}
{{- end }}
{{- include "stack-backup.confirmed" (dict "namespace" $namespace "key" "databaseRecovery" "values" .databaseRecovery) }}
{{- include "stack-backup.confirmed" (dict "namespace" $namespace "key" "mediaRecovery" "values" .mediaRecovery) }}
{{- if and .replicaCheck.enabled (not (or .replicaCheck.database .replicaCheck.media)) }}
{{- fail "replicaCheck.database and replicaCheck.media are both false, but replicaCheck.enabled is true: say which replica is to be checked." }}
{{- end }}
{{- if and .offsite.enabled (not .offsite.remote) }}
{{- fail "offsite.remote is empty, but offsite.enabled is true: name the remote and a path, such as s3:backups/production." }}
{{- end }}
{{- if and (regexMatch `^(@hourly|[0-9]+ \* \* \* \*)$` .backup.schedule) (gt (add (int64 .backup.deadlineSeconds) (int64 .backup.startingDeadlineSeconds)) 3600) }}
{{- fail (printf "backup.deadlineSeconds %v and backup.startingDeadlineSeconds %v together exceed the hour between two runs: a late run would take the place of the next one." .backup.deadlineSeconds .backup.startingDeadlineSeconds) }}
{{- end }}
{{- end }}
{{- end }}
