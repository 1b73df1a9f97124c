{{/* What a schema cannot say. Each guard fails with a sentence that names the values and what to do. */}}

{{/* A quantity such as 120Gi in whole MiB. */}}
{{- define "stack-backup.mebibytes" -}}
{{- $factors := dict "Ki" 0.0009765625 "Mi" 1.0 "Gi" 1024.0 "Ti" 1048576.0 "Pi" 1073741824.0 "k" 0.00095367431640625 "M" 0.95367431640625 "G" 953.67431640625 "T" 953674.31640625 "P" 953674316.40625 -}}
{{- $unit := regexFind "[A-Za-z]+$" . -}}
{{- $number := trimSuffix $unit . | float64 -}}
{{- mulf $number (ternary (index $factors $unit) 0.00000095367431640625 (hasKey $factors $unit)) | floor | int64 -}}
{{- end }}

{{- define "stack-backup.guards" -}}
{{- with .Values }}
{{- if and .backup.enabled (not .volumes.databaseBackup.existingClaim) }}
{{- $have := include "stack-backup.mebibytes" .volumes.databaseBackup.size | int64 }}
{{- $one := include "stack-backup.mebibytes" .backup.dumpSize | int64 }}
{{- $need := div (mul $one (add (int64 .backup.keep) 1) 13) 10 }}
{{- if lt $have $need }}
{{- fail (printf "volumes.databaseBackup.size is %s, but backup.keep %v dumps of backup.dumpSize %s, one being written and a reserve of 30 %% need %dMi: make the volume larger or keep fewer dumps." .volumes.databaseBackup.size .backup.keep .backup.dumpSize $need) }}
{{- end }}
{{- end }}
{{- if and (regexMatch `^(@hourly|[0-9]+ \* \* \* \*)$` .backup.schedule) (gt (add (int64 .backup.deadlineSeconds) (int64 .backup.startingDeadlineSeconds)) 3600) }}
{{- fail (printf "backup.deadlineSeconds %v and backup.startingDeadlineSeconds %v together exceed the hour between two runs: a late run would take the place of the next one." .backup.deadlineSeconds .backup.startingDeadlineSeconds) }}
{{- end }}
{{- end }}
{{- end }}
