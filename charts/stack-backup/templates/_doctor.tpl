{{/*
What the doctor's pod is, of the CronJob and of the hooks of `helm test`: context, job (of the table, or what a hook has of
it), and the subjects that are examined. The rest is that of stack-backup.cronJob.
*/}}
{{- define "stack-backup.doctorPod" -}}
{{- $values := .context.Values -}}
component: doctor
grace: 30
env:
  PGHOST: {{ $values.database.host | quote }}
  PGPORT: {{ $values.database.port | quote }}
  DATABASE_SUPERUSER: {{ $values.database.superuser | quote }}
  DATABASE_NAME: {{ $values.database.name | quote }}
  DATABASE_OWNER: {{ $values.database.owner | quote }}
  PASSWORD_FILE: /secrets/database/superuser-password
  OWNER_PASSWORD_FILE: {{ has "owner" .job.passwords | ternary "/secrets/database/owner-password" "" | quote }}
  SUBJECTS: {{ join " " .subjects | quote }}
  VOLUMES: {{ include "stack-backup.doctorVolumes" .context | trim | quote }}
  DUMP_SIZE: {{ include "stack-backup.bytes" $values.postgresBackupHourly.dumpSize | quote }}
{{- end }}

{{/* Each volume as NAME:MODE:PATH:FOLDER:KEEP: where it is mounted, the folder there that is written, the dumps that are kept. */}}
{{- define "stack-backup.doctorVolumes" -}}
{{- $folders := dict "databaseBackup" "hourly" "databaseReplica" .Values.postgresReplicatorBackup.folder "mediaReplica" ".stack-backup" }}
{{- $keep := dict "databaseBackup" (include "stack-backup.dumpsKept" . | int64) "databaseReplica" .Values.postgresReplicatorBackup.keep }}
{{- $words := list }}
{{- range (include "stack-backup.jobs" . | fromYaml).doctor.mounts }}
{{- $words = append $words (printf "%s:%s:%s:%s:%v" (kebabcase .volume) (ternary "written" "read" .written) .path (dig .volume "" $folders) (dig .volume 0 $keep | int64)) }}
{{- end }}
{{- join " " $words }}
{{- end }}

{{/* What is examined, each in a pod of its own where one must not keep the others from starting. */}}
{{- define "stack-backup.doctorSubjects" -}}
{{- $subjects := list }}
{{- with include "stack-backup.jobs" . | fromYaml | dig "doctor" dict }}
{{- if .passwords }}{{ $subjects = append $subjects "database" }}{{ end }}
{{- if .store }}{{ $subjects = append $subjects "offsite" }}{{ end }}
{{- range .mounts }}
{{- $subjects = append $subjects (kebabcase .volume) }}
{{- end }}
{{- end }}
{{- toJson $subjects }}
{{- end }}
