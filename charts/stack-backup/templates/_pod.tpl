{{/*
The one shape of every job: a CronJob, from its schedule to its pod. What the table of jobs has (section, passwords, store, mounts)
and the settings of the job's section are taken from there. A job's template states only what is its own, in a dict:

  context   the root context
  component the job's name
  program   the program's name, where it is not the job's name
  once      no failure is ever tried again: what must not be repeated blindly
  grace     seconds between TERM and KILL
  env       further environment: a map of name to value
  sql       whether the SQL of the values is mounted at /sql
  passwd    whether the pod's user has a name: initdb wants one, and an image knows only its own users
*/}}
{{- define "stack-backup.cronJob" -}}
{{- $job := index (include "stack-backup.jobs" .context | fromYaml) .component }}
{{- $settings := include "stack-backup.settings" (dict "context" .context "job" $job) | fromJson -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ .component }}
  namespace: {{ .context.Release.Namespace | quote }}
  {{- include "stack-backup.about" (dict "context" .context "component" .component "labels" $settings.labels "annotations" $settings.annotations) | nindent 2 }}
spec:
  {{- include "stack-backup.cronJobSpec" (merge (dict "job" $job "settings" $settings) .) | nindent 2 }}
{{- end }}

{{/* Labels and annotations of a job's objects: context, component, labels, annotations. */}}
{{- define "stack-backup.about" -}}
labels:
  {{- include "stack-backup.labelsOf" . | nindent 2 }}
{{- with .annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "stack-backup.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* What every pod has, whoever makes it: context, grace, settings (where it may run). */}}
{{- define "stack-backup.podFrame" -}}
serviceAccountName: {{ include "stack-backup.serviceAccount" .context | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .grace }}
{{- $secrets := list }}
{{- range concat .context.Values.global.imagePullSecrets .context.Values.pod.imagePullSecrets }}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) }}
{{- end }}
{{- /* Each once, whoever names it. */}}
{{- with uniq $secrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" }}
{{- with index $.settings $key }}
{{- toYaml (dict $key .) | nindent 0 }}
{{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .context.Values.pod.runAsUser | int64 }}
  runAsGroup: {{ .context.Values.pod.runAsGroup | int64 }}
  {{- if kindIs "invalid" .context.Values.pod.fsGroup | not }}
  fsGroup: {{ .context.Values.pod.fsGroup | int64 }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  {{- with .context.Values.pod.supplementalGroups }}
  supplementalGroups: {{ toJson . }}
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/* An init container that lends a program to the database image: context, tool (its section of the values), command. */}}
{{- define "stack-backup.lender" -}}
{{- $own := index .context.Values .tool -}}
name: {{ .tool }}
image: {{ include "stack-backup.image" (dict "context" .context "image" $own.image) | quote }}
imagePullPolicy: {{ $own.image.pullPolicy }}
command: {{ toJson .command }}
securityContext:
  {{- include "stack-backup.containerSecurity" . | nindent 2 }}
resources:
  {{- toYaml $own.resources | nindent 2 }}
volumeMounts:
  - name: tools
    mountPath: /tools
{{- end }}

{{/* The environment of a job's program. */}}
{{- define "stack-backup.environment" -}}
- name: JOB
  value: {{ .component }}
- name: NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
# A pod that is started again after a failure knows its first one's begin by it.
- name: JOB_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['batch.kubernetes.io/job-name']
- name: DEADLINE_SECONDS
  value: {{ .settings.deadlineSeconds | quote }}
- name: TERMINATION_LOG
  value: /dev/termination-log
- name: PYTHON
  value: {{ ternary "/tools/python/bin/python3" "python3" (not (empty .context.Values.python.image.repository)) }}
{{- if .settings.scratch }}
- name: SCRATCH
  value: /scratch
{{- end }}
{{- range .job.mounts }}
{{- if .variable }}
- name: {{ .variable }}
  value: {{ .path }}
{{- end }}
{{- if eq .volume "history" }}
- name: HISTORY
  value: {{ .path }}
- name: HISTORY_KEEP
  value: {{ $.context.Values.history.keep | quote }}
{{- end }}
{{- end }}
- name: HOME
  value: /tmp
- name: TMPDIR
  value: /tmp
{{- if .job.passwords }}
- name: PGSSLMODE
  value: {{ .context.Values.database.tls.mode }}
{{- range include "stack-backup.certificates" .context | fromYamlArray }}
- name: {{ .variable }}
  value: {{ .file }}
{{- end }}
{{- end }}
{{- if .job.store }}
- name: REMOTE
  value: {{ .context.Values.offsite.remote | replace "$" "$$" | quote }}
- name: CONFIGURATION_FILE
  value: /secrets/offsite/rclone.conf
{{- end }}
{{- if .job.ping }}
- name: NOTIFY_PING
  value: /secrets/notify/ping
{{- end }}
{{- if .job.webhook }}
- name: NOTIFY_WEBHOOK
  value: /secrets/notify/webhook
{{- end }}
{{- if or .job.ping .job.webhook }}
- name: NOTIFY_CA
  value: {{ ternary "/secrets/notify/ca.crt" "/tools/ca-certificates.crt" (not (empty .context.Values.notify.secret.caKey)) }}
{{- end }}
{{- range $name, $value := .env }}
{{- /* A number of a file is a float, which from a million on would be written with an exponent. */}}
{{- if kindIs "float64" $value }}{{ $value = int64 $value }}{{ end }}
{{- /* The kubelet takes `$$` for `$`, as in SQL's own quotes, and `$(NAME)` for a variable. */}}
- name: {{ $name }}
  value: {{ $value | toString | replace "$" "$$" | quote }}
{{- end }}
{{- end }}

{{/* What the Secret of the connection's certificates holds for libpq: the keys in use, their files, and the variables that name these. */}}
{{- define "stack-backup.certificates" -}}
{{- with .Values.database.tls }}
{{- if hasPrefix "verify-" .mode }}
- {variable: PGSSLROOTCERT, file: /secrets/tls/ca.crt, key: {{ .secret.caKey | quote }}}
{{- end }}
{{- if and .secret.certificateKey (ne .mode "disable") }}
- {variable: PGSSLCERT, file: /secrets/tls/tls.crt, key: {{ .secret.certificateKey | quote }}}
- {variable: PGSSLKEY, file: /secrets/tls/tls.key, key: {{ .secret.privateKeyKey | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* What a job's container mounts, and the volumes behind it, both in the same order. */}}
{{- define "stack-backup.mounts" -}}
- name: programs
  mountPath: /programs
  readOnly: true
- name: tmp
  mountPath: /tmp
{{- if .job.passwords }}
- name: database-secret
  mountPath: /secrets/database
  readOnly: true
{{- if include "stack-backup.certificates" .context | fromYamlArray }}
- name: database-tls
  mountPath: /secrets/tls
  readOnly: true
{{- end }}
{{- end }}
{{- if or .job.ping .job.webhook }}
- name: notify
  mountPath: /secrets/notify
  readOnly: true
{{- end }}
{{- if or .job.store .context.Values.python.image.repository }}
- name: tools
  mountPath: /tools
  readOnly: true
{{- end }}
{{- if .settings.scratch }}
- name: scratch
  mountPath: /scratch
{{- end }}
{{- if .sql }}
- name: sql
  mountPath: /sql
  readOnly: true
{{- end }}
{{- if .passwd }}
- name: sql
  mountPath: /etc/passwd
  subPath: passwd
  readOnly: true
{{- end }}
{{- range .job.mounts }}
- name: {{ .name | default (kebabcase .volume) }}
  mountPath: {{ .path }}
  {{- if not .written }}
  readOnly: true
  {{- end }}
{{- end }}
{{- if .job.store }}
- name: offsite-secret
  mountPath: /secrets/offsite
  readOnly: true
{{- end }}
{{- end }}

{{- define "stack-backup.programsVolume" -}}
name: programs
configMap:
  name: {{ include "stack-backup.programs" . }}
  items:
    {{- range $path, $_ := .Files.Glob "files/**" }}
    {{- $file := trimPrefix "files/" $path }}
    - key: {{ $file | replace "/" "." }}
      path: {{ $file }}
    {{- end }}
{{- end }}

{{- define "stack-backup.podVolumes" -}}
{{- $values := .context.Values -}}
- {{ include "stack-backup.programsVolume" .context | indent 2 | trim }}
# In memory: the password file of libpq lies here.
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: 64Mi
{{- if .job.passwords }}
- name: database-secret
  secret:
    secretName: {{ $values.database.secret.name | quote }}
    # A missing Secret or key then ends the run red at once, instead of holding its pod until the deadline.
    optional: true
    defaultMode: 0444
    items:
      {{- range .job.passwords }}
      - key: {{ index $values.database.secret (printf "%sKey" .) | quote }}
        path: {{ . }}-password
      {{- end }}
{{- with include "stack-backup.certificates" .context | fromYamlArray }}
- name: database-tls
  secret:
    secretName: {{ $values.database.tls.secret.name | quote }}
    optional: true
    defaultMode: 0444
    items:
      {{- range . }}
      - key: {{ .key | quote }}
        path: {{ base .file }}
      {{- end }}
{{- end }}
{{- end }}
{{- if or .job.ping .job.webhook }}
- name: notify
  secret:
    secretName: {{ $values.notify.secret.name | quote }}
    # Of a Secret or a key that is missing, the log has a line: no run waits for it.
    optional: true
    defaultMode: 0444
    items:
      {{- with .job.ping }}
      - {key: {{ . | quote }}, path: ping}
      {{- end }}
      {{- with .job.webhook }}
      - {key: {{ . | quote }}, path: webhook}
      {{- end }}
      {{- with $values.notify.secret.caKey }}
      - {key: {{ . | quote }}, path: ca.crt}
      {{- end }}
{{- end }}
{{- if or .job.store $values.python.image.repository }}
- name: tools
  emptyDir:
    sizeLimit: 256Mi
{{- end }}
{{- with .settings.scratch }}
- name: scratch
  {{- if .storageClass }}
  ephemeral:
    volumeClaimTemplate:
      spec:
        accessModes: [ReadWriteOnce]
        storageClassName: {{ .storageClass | quote }}
        resources:
          requests:
            storage: {{ .size | quote }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .size | quote }}
  {{- end }}
{{- end }}
{{- if .sql }}
- name: sql
  configMap:
    name: {{ include "stack-backup.sql" .context }}
{{- end }}
{{- range .job.mounts }}
- name: {{ .name | default (kebabcase .volume) }}
  persistentVolumeClaim:
    claimName: {{ include (printf "stack-backup.%sClaim" .volume) $.context | quote }}
    {{- if not .written }}
    readOnly: true
    {{- end }}
{{- end }}
{{- if .job.store }}
- name: offsite-secret
  secret:
    secretName: {{ $values.offsite.secret.name | quote }}
    # As that of the database.
    optional: true
    defaultMode: 0444
    items:
      - key: {{ $values.offsite.secret.key | quote }}
        path: rclone.conf
{{- end }}
{{- end }}

{{/* What an operator adds to a pod must not take the place of what its program relies on. */}}
{{- define "stack-backup.unclashed" -}}
{{- $section := .job.section }}
{{- $variables := list }}
{{- range include "stack-backup.environment" . | fromYamlArray }}
{{- $variables = append $variables .name }}
{{- end }}
{{- $own := list }}
{{- range .settings.extraEnv }}
{{- if has .name $own }}
{{- fail (printf "%s.extraEnv sets %s twice: keep one of them." $section .name) }}
{{- end }}
{{- if or (has .name $variables) (hasPrefix "PG" .name) }}
{{- fail (printf "%s.extraEnv sets %s, a variable of the program of %s or of libpq: set the value that it comes from (docs/jobs), or lay it over a single run." $section .name $.component) }}
{{- end }}
{{- $own = append $own .name }}
{{- end }}
{{- $volumes := list }}
{{- range include "stack-backup.podVolumes" . | fromYamlArray }}
{{- $volumes = append $volumes .name }}
{{- end }}
{{- range .settings.extraVolumes }}
{{- if has .name $volumes }}
{{- fail (printf "%s.extraVolumes has a volume %q, as the pod of %s has already: give it another name." $section .name $.component) }}
{{- end }}
{{- $volumes = append $volumes .name }}
{{- end }}
{{- $mounts := include "stack-backup.mounts" . | fromYamlArray }}
{{- $paths := list }}
{{- range .settings.extraVolumeMounts }}
{{- $path := printf "%s/" (trimSuffix "/" .mountPath) }}
{{- if has $path $paths }}
{{- fail (printf "%s.extraVolumeMounts mounts twice at %s: keep one of them." $section .mountPath) }}
{{- end }}
{{- $paths = append $paths $path }}
{{- range $mounts }}
{{- $own := printf "%s/" .mountPath }}
{{- if or (hasPrefix $own $path) (hasPrefix $path $own) }}
{{- fail (printf "%s.extraVolumeMounts mounts at %s, which hides or lies within %s of the pod of %s: choose another path." $section (trimSuffix "/" $path | default "/") .mountPath $.component) }}
{{- end }}
{{- end }}
{{- if not (has .name $volumes) }}
{{- fail (printf "%s.extraVolumeMounts mounts %q, but the pod of %s has no volume of that name: add it to %s.extraVolumes." $section .name $.component $section) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "stack-backup.cronJobSpec" -}}
{{- include "stack-backup.unclashed" . }}
{{- $values := .context.Values -}}
{{- $settings := .settings -}}
{{- if $settings.schedule }}
schedule: {{ include "stack-backup.schedule" (dict "context" .context "schedule" $settings.schedule) | quote }}
suspend: {{ $settings.suspend }}
{{- else }}
# Never by itself: kubectl, AWX and the command line make a Job of it.
schedule: "@yearly"
suspend: true
{{- end }}
timeZone: {{ $settings.timeZone | quote }}
# A run that is due while one is at work is passed over: Replace would kill a good run, Allow would write twice.
concurrencyPolicy: Forbid
startingDeadlineSeconds: {{ $settings.startingDeadlineSeconds }}
successfulJobsHistoryLimit: {{ $settings.successfulJobsHistoryLimit }}
failedJobsHistoryLimit: {{ $settings.failedJobsHistoryLimit }}
jobTemplate:
  metadata:
    {{- include "stack-backup.about" (dict "context" .context "component" .component "labels" $settings.labels "annotations" $settings.annotations) | nindent 4 }}
  spec:
    # Ends a pod that never starts, too: with Forbid, that one would hold up every later run.
    activeDeadlineSeconds: {{ $settings.deadlineSeconds }}
    backoffLimit: {{ $settings.backoffLimit }}
    {{- with $settings.ttlSecondsAfterFinished }}
    ttlSecondsAfterFinished: {{ int64 . }}
    {{- end }}
    podReplacementPolicy: Failed
    podFailurePolicy:
      rules:
        {{- if .once }}
        # Not even after a disruption: what replaces data is never repeated blindly.
        - action: FailJob
          onExitCodes:
            containerName: {{ .component }}
            operator: NotIn
            values: [0]
        {{- else }}
        - action: Ignore
          onPodConditions:
            - type: DisruptionTarget
              status: "True"
        # Exit codes that a second try cannot change; docs/exit-codes.md has them all.
        - action: FailJob
          onExitCodes:
            containerName: {{ .component }}
            operator: In
            values: [64, 66, 73, 76, 77, 78]
        {{- end }}
    template:
      metadata:
        {{- include "stack-backup.about" (dict "context" .context "component" .component "labels" $settings.podLabels "annotations" $settings.podAnnotations) | nindent 8 }}
      spec:
        {{- include "stack-backup.podSpec" . | nindent 8 }}
{{- end }}

{{/* The pod of a job: as cronJob, with job and settings. */}}
{{- define "stack-backup.podSpec" -}}
{{- $values := .context.Values -}}
{{- $settings := .settings -}}
restartPolicy: Never
{{- include "stack-backup.podFrame" . | nindent 0 }}
{{- if or .job.store $values.python.image.repository }}
initContainers:
  {{- if $values.python.image.repository }}
  # The interpreter of the programs, which the database image need not have. It loads them once, and so keeps
  # what it compiled; where it cannot run in its own image either, the program's start says so.
  {{- $install := "mkdir /tools/python && cp -dR /usr/local/bin /usr/local/lib /tools/python/ && /tools/python/bin/python3 -I /programs" }}
  {{- if and (or .job.ping .job.webhook) (not $values.notify.secret.caKey) }}
  # The public authorities: the database image need not have them.
  {{- $install = printf "%s && { cp -L /etc/ssl/certs/ca-certificates.crt /tools/ || true; }" $install }}
  {{- end }}
  - {{ include "stack-backup.lender" (dict "context" .context "tool" "python" "command" (list "/bin/sh" "-c" $install)) | indent 4 | trim }}
      - name: programs
        mountPath: /programs
        readOnly: true
  {{- end }}
  {{- if .job.store }}
  # A static binary: it runs in the database image as well as in its own.
  - {{ include "stack-backup.lender" (dict "context" .context "tool" "rclone" "command" (list "cp" "/usr/local/bin/rclone" "/tools/rclone")) | indent 4 | trim }}
  {{- end }}
{{- end }}
containers:
  - name: {{ .component }}
    image: {{ include "stack-backup.image" (dict "context" .context "image" $values.database.image) | quote }}
    imagePullPolicy: {{ $values.database.image.pullPolicy }}
    command: [/bin/sh, /programs/start.sh, {{ .program | default .component }}]
    securityContext:
      {{- include "stack-backup.containerSecurity" . | nindent 6 }}
    env:
      {{- include "stack-backup.environment" . | nindent 6 }}
      {{- with $settings.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    resources:
      {{- include "stack-backup.resources" $settings | nindent 6 }}
    volumeMounts:
      {{- include "stack-backup.mounts" . | nindent 6 }}
      {{- with $settings.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  {{- include "stack-backup.podVolumes" . | nindent 2 }}
  {{- with $settings.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Scratch space on the node's own disk counts as requested, unless the job requests more: it goes only where that much is free. */}}
{{- define "stack-backup.resources" -}}
{{- $resources := deepCopy .resources }}
{{- if .scratch }}
{{- if not .scratch.storageClass }}
{{- include "stack-backup.fill" (dict "into" $resources "from" (dict "requests" (dict "ephemeral-storage" .scratch.size))) }}
{{- end }}
{{- end }}
{{- toYaml $resources }}
{{- end }}
