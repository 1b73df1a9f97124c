{{/* What a schema cannot say. Each guard fails with a sentence that names the values and what to do. */}}

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

{{/* Two jobs of one release that need different volumes: claims by the value that names them. */}}
{{- define "stack-backup.apart" -}}
{{- range $one, $claim := . }}
{{- range $other, $same := $ }}
{{- if and (lt $one $other) (eq $claim $same) }}
{{- fail (printf "%s and %s are the same claim, %q: what one job writes, another would overwrite or delete. Name two." $one $other $claim) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Room in the pod for a job on dumps: values, key, times the size of a dump. */}}
{{- define "stack-backup.scratchRoom" -}}
{{- $size := (index .values .key).scratch.size }}
{{- $need := mul .times (include "stack-backup.mebibytes" .values.backup.dumpSize | int64) }}
{{- if lt (include "stack-backup.mebibytes" $size | int64) $need }}
{{- fail (printf "%s.scratch.size is %s, but a dump of backup.dumpSize %s needs %dMi there: make it larger." .key $size .values.backup.dumpSize $need) }}
{{- end }}
{{- end }}

{{/* A job that runs every hour: key, values. */}}
{{- define "stack-backup.hourly" -}}
{{- if and (regexMatch `^(@hourly|(H|[0-9]+) \* \* \* \*)$` .values.schedule) (gt (add (int64 .values.deadlineSeconds) (int64 .values.startingDeadlineSeconds)) 3600) }}
{{- fail (printf "%s.deadlineSeconds %v and %s.startingDeadlineSeconds %v together exceed the hour between two runs: a late run would take the place of the next one." .key .values.deadlineSeconds .key .values.startingDeadlineSeconds) }}
{{- end }}
{{- end }}

{{/* Jobs that read dumps, where none are made and no claim brings any. */}}
{{- define "stack-backup.hasDumps" -}}
{{- $readers := list }}
{{- range $key := list "databaseReplica" "drill" "offsite" "tiers" }}
{{- if (index $ $key).enabled }}
{{- $readers = append $readers (printf "%s.enabled" $key) }}
{{- end }}
{{- end }}
{{- if and .databaseRecovery.enabled (eq .databaseRecovery.source "backup") }}
{{- $readers = append $readers "databaseRecovery.source backup" }}
{{- end }}
{{- if and $readers (not .backup.enabled) (not .volumes.databaseBackup.existingClaim) }}
{{- fail (printf "%s: these need dumps, but backup.enabled is false and volumes.databaseBackup.existingClaim is empty. Enable the backup (backup.suspend holds its schedule), or name the claim that holds the dumps." (join ", " $readers)) }}
{{- end }}
{{- end }}

{{- define "stack-backup.offsiteGuards" -}}
{{- if not .offsite.remote }}
{{- fail "offsite.remote is empty, but offsite.enabled is true: name the remote and a path, such as s3:backups/production." }}
{{- end }}
{{- $made := ternary (list "hourly" "daily" "weekly" "monthly") (list "hourly") .tiers.enabled }}
{{- range .offsite.folders }}
{{- if not (or (has . $made) $.volumes.databaseBackup.existingClaim) }}
{{- fail (printf "offsite.folders names %q, but only %s are written (tiers.enabled is %v): nothing would be copied from it." . (join ", " $made) $.tiers.enabled) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "stack-backup.guards" -}}
{{- $namespace := .Release.Namespace }}
{{- $replica := include "stack-backup.usesDatabaseReplica" . }}
{{- $media := include "stack-backup.usesMediaReplica" . }}
{{- $claims := dict }}
{{- if include "stack-backup.usesDatabaseBackup" . }}
{{- $_ := set $claims "volumes.databaseBackup" (include "stack-backup.databaseBackupClaim" .) }}
{{- end }}
{{- if $replica }}
{{- include "stack-backup.hasPlace" (dict "key" "databaseReplica" "volume" .Values.volumes.databaseReplica) }}
{{- $_ := set $claims "volumes.databaseReplica" (include "stack-backup.databaseReplicaClaim" .) }}
{{- end }}
{{- if $media }}
{{- include "stack-backup.hasPlace" (dict "key" "mediaReplica" "volume" .Values.volumes.mediaReplica) }}
{{- $_ := set $claims "volumes.mediaReplica" (include "stack-backup.mediaReplicaClaim" .) }}
{{- end }}
{{- with .Values }}
{{- if or .mediaReplica.enabled .mediaRecovery.enabled (and .offsite.enabled .offsite.media) }}
{{- $_ := set $claims "volumes.media" .volumes.media.existingClaim }}
{{- end }}
{{- if .replicaCheck.enabled }}
{{- $_ := set $claims "volumes.replicaCheck" (.volumes.replicaCheck.existingClaim | default "replica-check") }}
{{- end }}
{{- include "stack-backup.apart" $claims }}
{{- $dumps := printf "%s/" (trimSuffix "/" .volumes.databaseReplica.nfs.path) }}
{{- $files := printf "%s/" (trimSuffix "/" .volumes.mediaReplica.nfs.path) }}
{{- if and $replica $media (not .volumes.databaseReplica.existingClaim) (not .volumes.mediaReplica.existingClaim) (eq .volumes.databaseReplica.nfs.server .volumes.mediaReplica.nfs.server) (or (hasPrefix $dumps $files) (hasPrefix $files $dumps)) }}
{{- fail (printf "volumes.databaseReplica.nfs.path %s and volumes.mediaReplica.nfs.path %s of server %s lie in one another: the mirror of the media would delete the dumps. Name two exports." .volumes.databaseReplica.nfs.path .volumes.mediaReplica.nfs.path .volumes.mediaReplica.nfs.server) }}
{{- end }}
{{- include "stack-backup.hasDumps" . }}
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
{{- if .drill.enabled }}
{{- include "stack-backup.scratchRoom" (dict "values" . "key" "drill" "times" 8) }}
{{- end }}
{{- if .databaseRecovery.enabled }}
{{- include "stack-backup.scratchRoom" (dict "values" . "key" "databaseRecovery" "times" 1) }}
{{- end }}
{{- include "stack-backup.confirmed" (dict "namespace" $namespace "key" "databaseRecovery" "values" .databaseRecovery) }}
{{- include "stack-backup.confirmed" (dict "namespace" $namespace "key" "mediaRecovery" "values" .mediaRecovery) }}
{{- if and .replicaCheck.enabled (not (or .replicaCheck.database .replicaCheck.media)) }}
{{- fail "replicaCheck.database and replicaCheck.media are both false, but replicaCheck.enabled is true: say which replica is to be checked." }}
{{- end }}
{{- if .offsite.enabled }}
{{- include "stack-backup.offsiteGuards" . }}
{{- end }}
{{- include "stack-backup.hourly" (dict "key" "backup" "values" .backup) }}
{{- include "stack-backup.hourly" (dict "key" "replicaCheck" "values" .replicaCheck) }}
{{- end }}
{{- end }}
