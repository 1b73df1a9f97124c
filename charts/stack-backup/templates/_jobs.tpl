{{/*
The table of jobs. Each job that is enabled has here the section of its values, the passwords that it is given (and with
them the way to the database), whether it talks to the off-site store, and the volumes that it mounts: which of `volumes`,
where, the program's variable for that place, and whether it writes there. Pods, claims, guards, network policies and notes
take it from here.
*/}}
{{- define "stack-backup.jobs" -}}
{{- /* Worked out once and kept beside the values: every template asks for it, most of them for each job. */}}
{{- if not (hasKey .Values "_jobs") }}
{{- $_ := include "stack-backup.workedOutJobs" . | set .Values "_jobs" }}
{{- end }}
{{- get .Values "_jobs" }}
{{- end }}

{{- define "stack-backup.workedOutJobs" -}}
{{- $workers := include "stack-backup.workers" . }}
{{- $workers }}
{{- if and .Values.doctor.enabled ($workers | fromYaml) }}
{{ include "stack-backup.doctorJob" ($workers | fromYaml) }}
{{- end }}
{{- end }}

{{/*
The doctor has what any of the others has, each volume at a place of its own: /volumes/database-backup,
/volumes/database-replica and so on. Of workers.
*/}}
{{- define "stack-backup.doctorJob" -}}
{{- $passwords := list }}
{{- $mounts := dict }}
{{- $store := false }}
{{- range . }}
{{- $passwords = concat $passwords (.passwords | default list) | uniq }}
{{- $store = or $store (.store | default false) }}
{{- range .mounts }}
{{- $written := or .written (dig .volume "written" false $mounts) }}
{{- $_ := set $mounts .volume (dict "volume" .volume "path" (printf "/volumes/%s" (kebabcase .volume)) "written" $written) }}
{{- end }}
{{- end -}}
doctor:
  section: doctor
  passwords: {{ toJson $passwords }}
  store: {{ $store }}
  mounts:
    {{- range $mounts }}
    - {{ toJson . }}
    {{- end }}
{{- end }}

{{/* The jobs that do the work; each of them writes its verdicts to the history, if that is kept. */}}
{{- define "stack-backup.workers" -}}
{{- $jobs := include "stack-backup.table" . | fromYaml }}
{{- if .Values.history.enabled }}
{{- range $jobs }}
{{- $_ := set . "mounts" (append (.mounts | default list) (dict "volume" "history" "path" "/history" "written" true)) }}
{{- end }}
{{- end }}
{{- range $component, $job := $jobs }}
{{- if has $component $.Values.notify.ping }}
{{- $_ := set $job "ping" $component }}
{{- end }}
{{- if $.Values.notify.webhook }}
{{- $_ := set $job "webhook" $.Values.notify.webhook }}
{{- end }}
{{- end }}
{{- toYaml $jobs }}
{{- end }}

{{/* The jobs that do the work, as they are told apart here. */}}
{{- define "stack-backup.table" -}}
{{- with .Values }}
{{- if .postgresBackupHourly.enabled }}
postgres-backup-hourly:
  section: postgresBackupHourly
  passwords: [superuser]
  mounts:
    - {volume: databaseBackup, path: /backup, variable: BACKUP_VOLUME, written: true}
{{- end }}
{{- if .postgresBackupTiers.enabled }}
{{- range list "daily" "weekly" "monthly" }}
postgres-backup-{{ . }}:
  section: postgresBackupTiers
  tier: {{ . }}
  mounts:
    - {volume: databaseBackup, path: /backup, variable: BACKUP_VOLUME, written: true}
{{- end }}
{{- end }}
{{- if .postgresReplicatorBackup.enabled }}
postgres-replicator-backup:
  section: postgresReplicatorBackup
  mounts:
    - {volume: databaseBackup, path: /backup, variable: BACKUP_VOLUME}
    - {volume: databaseReplica, path: /replica, variable: REPLICA_VOLUME, written: true}
{{- end }}
{{- if .mediaReplicator.enabled }}
media-replicator:
  section: mediaReplicator
  mounts:
    - {volume: media, path: /media, variable: MEDIA_VOLUME}
    - {volume: mediaReplica, path: /media-replica, variable: MEDIA_REPLICA_VOLUME, written: true}
{{- end }}
{{- if .offsite.enabled }}
offsite:
  section: offsite
  store: true
  mounts:
    - {volume: databaseBackup, path: /backup, variable: BACKUP_VOLUME}
    {{- if .offsite.media }}
    - {volume: media, path: /media, variable: MEDIA_VOLUME}
    {{- end }}
{{- end }}
{{- if .databaseDrill.enabled }}
database-drill:
  section: databaseDrill
  store: {{ eq .databaseDrill.source "offsite" }}
  mounts:
    {{- if ne .databaseDrill.source "offsite" }}
    - {volume: databaseBackup, path: /backup, variable: SOURCE_VOLUME}
    {{- end }}
    {{- if .databaseDrill.references }}
    - {volume: mediaReplica, path: /media-replica, variable: MEDIA_REPLICA_VOLUME}
    {{- end }}
{{- end }}
{{- if .replicaCheck.enabled }}
replica-check:
  section: replicaCheck
  mounts:
    - {volume: replicaCheck, path: /state, variable: STATE_VOLUME, written: true}
    {{- if .replicaCheck.media }}
    - {volume: mediaReplica, path: /media-replica, variable: MEDIA_REPLICA_VOLUME}
    {{- end }}
    {{- if .replicaCheck.database }}
    - {volume: databaseReplica, path: /replica, variable: REPLICA_VOLUME}
    {{- end }}
{{- end }}
{{- if .databaseRecovery.enabled }}
database-recovery:
  section: databaseRecovery
  passwords: [superuser, owner]
  store: {{ eq .databaseRecovery.source "offsite" }}
  mounts:
    {{- if ne .databaseRecovery.source "offsite" }}
    - {volume: {{ ternary "databaseBackup" "databaseReplica" (eq .databaseRecovery.source "backup") }}, path: /source, variable: SOURCE_VOLUME, name: source}
    {{- end }}
{{- end }}
{{- if .mediaRecovery.enabled }}
media-recovery:
  section: mediaRecovery
  store: {{ eq .mediaRecovery.source "offsite" }}
  mounts:
    - {volume: media, path: /media, variable: MEDIA_VOLUME, written: true}
    {{- if ne .mediaRecovery.source "offsite" }}
    - {volume: mediaReplica, path: /media-replica, variable: MEDIA_REPLICA_VOLUME}
    {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* How many dumps the volume of the backup holds in all: the hourly ones, and the tiers'. */}}
{{- define "stack-backup.dumpsKept" -}}
{{- $kept := .Values.postgresBackupHourly.keep }}
{{- with .Values.postgresBackupTiers }}
{{- if .enabled }}
{{- $kept = add $kept .daily.keep .weekly.keep .monthly.keep }}
{{- end }}
{{- end }}
{{- int64 $kept }}
{{- end }}

{{/* Which volumes the jobs of this release mount, as a map: `read`, or `written` where one of them writes there. */}}
{{- define "stack-backup.volumes" -}}
{{- $found := dict }}
{{- range include "stack-backup.jobs" . | fromYaml }}
{{- range .mounts }}
{{- if or .written (not (hasKey $found .volume)) }}
{{- $_ := set $found .volume (ternary "written" "read" (default false .written)) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $found }}
{{- end }}

{{/* The settings of a job: its section (and, of a tier, the tier's own) over jobDefaults. context, job (of the table). */}}
{{- define "stack-backup.settings" -}}
{{- $section := index .context.Values .job.section }}
{{- $settings := deepCopy $section }}
{{- if .job.tier }}
{{- $_ := set $settings "schedule" (index $section .job.tier).schedule }}
{{- end }}
{{- if dig "sanitise" "enabled" false $section }}
{{- $_ := set $settings "scratch" $section.sanitise.scratch }}
{{- end }}
{{- include "stack-backup.fill" (dict "into" $settings "from" .context.Values.jobDefaults) }}
{{- toJson $settings }}
{{- end }}

{{/*
Gives a map what it lacks, in maps within it, too; a null says that there is to be none. Unlike `merge`, it takes a false, a 0
and an empty list for values: into, from.
*/}}
{{- define "stack-backup.fill" -}}
{{- range $key, $value := .from }}
{{- if not (hasKey $.into $key) }}
{{- $_ := set $.into $key $value }}
{{- else if kindIs "invalid" (index $.into $key) }}
{{- $_ := unset $.into $key }}
{{- else if and (kindIs "map" $value) (kindIs "map" (index $.into $key)) }}
{{- include "stack-backup.fill" (dict "into" (index $.into $key) "from" $value) }}
{{- end }}
{{- end }}
{{- end }}
