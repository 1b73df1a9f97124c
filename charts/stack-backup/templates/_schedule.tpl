{{/*
The longest time between two runs of a schedule, in seconds: schedule, timeZone. An alert that waits for it never fires
too early: where the calendar has several answers, this is the longest or a little more.

Times of day repeat on every day that has runs, so only two gaps count: within a day, and from the last run of such a day
to the first of the next one.
*/}}
{{- define "stack-backup.longestGap" -}}
{{- $words := dict "@hourly" "0 * * * *" "@daily" "0 0 * * *" "@midnight" "0 0 * * *" "@weekly" "0 0 * * 0" "@monthly" "0 0 1 * *" "@yearly" "0 0 1 1 *" "@annually" "0 0 1 1 *" }}
{{- $fields := index $words .schedule | default .schedule | lower | splitList " " }}
{{- $minutes := include "stack-backup.cronField" (dict "text" (index $fields 0) "low" 0 "high" 59) | fromJsonArray }}
{{- $hours := include "stack-backup.cronField" (dict "text" (index $fields 1) "low" 0 "high" 23) | fromJsonArray }}
{{- $spread := sub (last $minutes) (first $minutes) }}
{{- $gap := include "stack-backup.widest" $minutes | int64 }}
{{- if gt (len $hours) 1 }}
{{- $gap = max $gap (sub (mul 60 (include "stack-backup.widest" $hours | int64)) $spread) }}
{{- end }}
{{- $day := add (mul 60 (sub (last $hours) (first $hours))) $spread }}
{{- $gap = max $gap (sub (mul 1440 (include "stack-backup.daysApart" $fields | int64)) $day) | mul 60 }}
{{- if not (or (eq .timeZone "UTC") (hasPrefix "Etc/" .timeZone)) }}
{{- /* The hour that is skipped in spring takes its runs along; the one that comes twice in autumn is an hour more. */}}
{{- $skipped := and (lt (int (first $hours)) 4) (lt (len $hours) 24) }}
{{- $gap = add 3600 (mul $gap (ternary 2 1 $skipped)) }}
{{- end }}
{{- $gap }}
{{- end }}

{{/* The numbers that a field of a schedule stands for, in order: text, low, high, names (of which the first is `low`). */}}
{{- define "stack-backup.cronField" -}}
{{- $field := . }}
{{- $found := list }}
{{- range splitList "," .text }}
{{- $part := splitList "/" . }}
{{- $ends := list $field.low $field.high }}
{{- if ne (first $part) "*" }}
{{- $ends = list }}
{{- range splitList "-" (first $part) }}
{{- /* The namespace's own minute, H, is any one. */}}
{{- $ends = append $ends (has . $field.names | ternary (add $field.low (include "stack-backup.place" (dict "of" . "in" $field.names) | int)) (atoi .)) }}
{{- end }}
{{- if and (eq (len $ends) 1) (eq (len $part) 2) }}
{{- $ends = append $ends $field.high }}
{{- end }}
{{- end }}
{{- $step := ternary (last $part | atoi) 1 (eq (len $part) 2) }}
{{- range untilStep (first $ends | int) (add 1 (last $ends) | int) $step }}
{{- $found = append $found . }}
{{- end }}
{{- end }}
{{- $sorted := list }}
{{- range untilStep (int .low) (add 1 .high | int) 1 }}
{{- if has . $found }}
{{- $sorted = append $sorted . }}
{{- end }}
{{- end }}
{{- toJson $sorted }}
{{- end }}

{{- define "stack-backup.place" -}}
{{- range $place, $name := .in }}{{ if eq $name $.of }}{{ $place }}{{ end }}{{ end }}
{{- end }}

{{/* The widest gap between neighbours of an ordered list. */}}
{{- define "stack-backup.widest" -}}
{{- $widest := 0 }}
{{- range $place, $one := rest . }}
{{- $widest = max $widest (sub $one (index $ $place)) }}
{{- end }}
{{- $widest }}
{{- end }}

{{/* The most days from one that has runs to the next: the fields of a schedule. */}}
{{- define "stack-backup.daysApart" -}}
{{- $names := list "jan" "feb" "mar" "apr" "may" "jun" "jul" "aug" "sep" "oct" "nov" "dec" }}
{{- $months := include "stack-backup.cronField" (dict "text" (index . 3) "low" 1 "high" 12 "names" $names) | fromJsonArray }}
{{- $days := index . 2 }}
{{- $weekdays := index . 4 }}
{{- $apart := include "stack-backup.datesApart" (dict "days" $days "months" $months) | int64 }}
{{- if ne $weekdays "*" }}
{{- $names := list "sun" "mon" "tue" "wed" "thu" "fri" "sat" }}
{{- $found := include "stack-backup.cronField" (dict "text" $weekdays "low" 0 "high" 6 "names" $names) | fromJsonArray }}
{{- $byWeekday := append $found (add 7 (first $found)) | include "stack-backup.widest" | int64 }}
{{- if lt (len $months) 12 }}
{{- /* Its months may end so many days after their last run, and begin so many before their first. */}}
{{- $byMonth := include "stack-backup.datesApart" (dict "days" "*" "months" $months) | int64 }}
{{- $byWeekday = add $byMonth (mul 2 (sub $byWeekday 1)) }}
{{- end }}
{{- /* Where both are restricted, Kubernetes runs on days that fit either. */}}
{{- $apart = ternary $byWeekday (min $apart $byWeekday) (eq $days "*") }}
{{- end }}
{{- $apart }}
{{- end }}

{{/* The same by days of months alone: days, months. Of a year with and of one without 29 February. */}}
{{- define "stack-backup.datesApart" -}}
{{- $apart := 0 }}
{{- if and (eq .days "*") (eq (len .months) 12) }}
{{- $apart = 1 }}
{{- else }}
{{- $days := include "stack-backup.cronField" (dict "text" .days "low" 1 "high" 31) | fromJsonArray }}
{{- range $february := list 28 29 }}
{{- $found := list }}
{{- $before := 0 }}
{{- range $place, $length := list 31 $february 31 30 31 30 31 31 30 31 30 31 }}
{{- if has (add1 $place | float64) $.months }}
{{- range $days }}
{{- if le (int .) $length }}
{{- $found = append $found (add $before .) }}
{{- end }}
{{- end }}
{{- end }}
{{- $before = add $before $length }}
{{- end }}
{{- if $found }}
{{- $apart = append $found (add $before (first $found)) | include "stack-backup.widest" | int64 | max $apart }}
{{- else }}
{{- /* 29 February: eight years, where a century has none. */}}
{{- $apart = max $apart 2922 }}
{{- end }}
{{- end }}
{{- end }}
{{- $apart }}
{{- end }}
