{{/*
The one shape of every job: a CronJob, from its schedule to its pod. A job's template states only what is its own, in a
dict:

  context        the root context
  component      the job's name
  program        the program's name, where it is not the job's name
  values         schedule, timeZone, suspend, deadlineSeconds, startingDeadlineSeconds and resources; with an empty
                 schedule the CronJob is only the template of runs by hand
  backoffLimit   retries of one run
  once           no failure is ever tried again: what must not be repeated blindly
  grace          seconds between TERM and KILL
  env            further environment: a map of name to value
  databaseSecret which passwords are mounted: a list of superuser, owner
  rclone         whether the binary of rclone is put at /tools/rclone
  scratch        {size, storageClass} of a volume at /scratch that ends with the pod
  sql            whether the SQL of the values is mounted at /sql
  passwd         whether the pod's user has a name: initdb wants one, and an image knows only its own users
  volumes        further volumes: a list of {name, mountPath, readOnly, source}
*/}}
{{- define "stack-backup.cronJob" -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  name: {{ .component }}
  namespace: {{ .context.Release.Namespace | quote }}
  labels:
    {{- include "stack-backup.labels" .context | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
spec:
  {{- include "stack-backup.cronJobSpec" . | nindent 2 }}
{{- end }}

{{/* A volume of a claim, as a list of one: name, mountPath, claim, readOnly. */}}
{{- define "stack-backup.claimVolume" -}}
- name: {{ .name }}
  mountPath: {{ .mountPath }}
  {{- if .readOnly }}
  readOnly: true
  {{- end }}
  source:
    persistentVolumeClaim:
      claimName: {{ .claim | quote }}
      {{- if .readOnly }}
      readOnly: true
      {{- end }}
{{- end }}

{{- define "stack-backup.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* An init container that lends a program to the database image: all but its image and command. */}}
{{- define "stack-backup.lender" -}}
securityContext:
  {{- include "stack-backup.containerSecurity" . | nindent 2 }}
resources:
  requests:
    cpu: 50m
    memory: 64Mi
  limits:
    memory: 256Mi
volumeMounts:
  - name: tools
    mountPath: /tools
{{- end }}

{{- define "stack-backup.cronJobSpec" -}}
{{- $values := .context.Values -}}
{{- if .values.schedule }}
schedule: {{ include "stack-backup.schedule" (dict "context" .context "schedule" .values.schedule) | quote }}
suspend: {{ .values.suspend }}
{{- else }}
# Never by itself: kubectl, AWX and the command line make a Job of it.
schedule: "@yearly"
suspend: true
{{- end }}
timeZone: {{ .values.timeZone | quote }}
# A run that is due while one is at work is passed over: Replace would kill a good run, Allow would write twice.
concurrencyPolicy: Forbid
startingDeadlineSeconds: {{ .values.startingDeadlineSeconds }}
successfulJobsHistoryLimit: 3
failedJobsHistoryLimit: 5
jobTemplate:
  metadata:
    labels:
      {{- include "stack-backup.labels" .context | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
  spec:
    # Ends a pod that never starts, too: with Forbid, that one would hold up every later run.
    activeDeadlineSeconds: {{ .values.deadlineSeconds }}
    backoffLimit: {{ .backoffLimit }}
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
            values: [64, 66, 73, 77, 78]
        {{- end }}
    template:
      metadata:
        labels:
          {{- include "stack-backup.labels" .context | nindent 10 }}
          app.kubernetes.io/component: {{ .component }}
          {{- with $values.pod.labels }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
        {{- with $values.pod.annotations }}
        annotations:
          {{- toYaml . | nindent 10 }}
        {{- end }}
      spec:
        restartPolicy: Never
        serviceAccountName: {{ include "stack-backup.serviceAccount" .context | quote }}
        automountServiceAccountToken: false
        enableServiceLinks: false
        terminationGracePeriodSeconds: {{ .grace }}
        {{- with $values.pod.imagePullSecrets }}
        imagePullSecrets:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with $values.pod.nodeSelector }}
        nodeSelector:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with $values.pod.tolerations }}
        tolerations:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        {{- with $values.pod.affinity }}
        affinity:
          {{- toYaml . | nindent 10 }}
        {{- end }}
        securityContext:
          runAsNonRoot: true
          runAsUser: {{ $values.pod.runAsUser | int64 }}
          runAsGroup: {{ $values.pod.runAsGroup | int64 }}
          {{- if kindIs "invalid" $values.pod.fsGroup | not }}
          fsGroup: {{ $values.pod.fsGroup | int64 }}
          fsGroupChangePolicy: OnRootMismatch
          {{- end }}
          {{- with $values.pod.supplementalGroups }}
          supplementalGroups: {{ toJson . }}
          {{- end }}
          seccompProfile:
            type: RuntimeDefault
        {{- if or .rclone $values.python.image.repository }}
        initContainers:
          {{- if $values.python.image.repository }}
          # The interpreter of the programs, which the database image need not have. It loads them once, and so keeps
          # what it compiled; where it cannot run in its own image either, the program's start says so.
          - name: python
            image: {{ include "stack-backup.image" $values.python.image | quote }}
            imagePullPolicy: {{ $values.python.image.pullPolicy }}
            command:
              - /bin/sh
              - -c
              - mkdir /tools/python && cp -dR /usr/local/bin /usr/local/lib /tools/python/ && /tools/python/bin/python3 -I /programs
            {{- include "stack-backup.lender" .context | nindent 12 }}
              - name: programs
                mountPath: /programs
                readOnly: true
          {{- end }}
          {{- if .rclone }}
          # A static binary: it runs in the database image as well as in its own.
          - name: rclone
            image: {{ include "stack-backup.image" $values.rclone.image | quote }}
            imagePullPolicy: {{ $values.rclone.image.pullPolicy }}
            command: [cp, /usr/local/bin/rclone, /tools/rclone]
            {{- include "stack-backup.lender" .context | nindent 12 }}
          {{- end }}
        {{- end }}
        containers:
          - name: {{ .component }}
            image: {{ include "stack-backup.image" $values.database.image | quote }}
            imagePullPolicy: {{ $values.database.image.pullPolicy }}
            command: [/bin/sh, /programs/start.sh, {{ .program | default .component }}]
            securityContext:
              {{- include "stack-backup.containerSecurity" . | nindent 14 }}
            env:
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
                value: {{ .values.deadlineSeconds | quote }}
              - name: TERMINATION_LOG
                value: /dev/termination-log
              - name: PYTHON
                value: {{ ternary "/tools/python/bin/python3" "python3" (not (empty $values.python.image.repository)) }}
              - name: HOME
                value: /tmp
              - name: TMPDIR
                value: /tmp
              {{- range $name, $value := .env }}
              - name: {{ $name }}
                value: {{ $value | toString | quote }}
              {{- end }}
            {{- $resources := deepCopy .values.resources }}
            {{- if and .scratch (not .scratch.storageClass) }}
            {{- /* On the node's own disk: the pod goes only where that much is free. */}}
            {{- $_ := set $resources "requests" (merge (dict "ephemeral-storage" .scratch.size) ($resources.requests | default dict)) }}
            {{- end }}
            resources:
              {{- toYaml $resources | nindent 14 }}
            volumeMounts:
              - name: programs
                mountPath: /programs
                readOnly: true
              - name: tmp
                mountPath: /tmp
              {{- if .databaseSecret }}
              - name: database-secret
                mountPath: /secrets/database
                readOnly: true
              {{- end }}
              {{- if or .rclone $values.python.image.repository }}
              - name: tools
                mountPath: /tools
                readOnly: true
              {{- end }}
              {{- if .scratch }}
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
              {{- range .volumes }}
              - name: {{ .name }}
                mountPath: {{ .mountPath }}
                {{- if .readOnly }}
                readOnly: true
                {{- end }}
              {{- end }}
        volumes:
          - name: programs
            configMap:
              name: {{ include "stack-backup.programs" .context }}
              items:
                {{- range $path, $_ := .context.Files.Glob "files/**" }}
                {{- $file := trimPrefix "files/" $path }}
                - key: {{ $file | replace "/" "." }}
                  path: {{ $file }}
                {{- end }}
          # In memory: the password file of libpq lies here.
          - name: tmp
            emptyDir:
              medium: Memory
              sizeLimit: 64Mi
          {{- if .databaseSecret }}
          - name: database-secret
            secret:
              secretName: {{ $values.database.secret.name | quote }}
              # A missing Secret or key then ends the run red at once, instead of holding its pod until the deadline.
              optional: true
              defaultMode: 0444
              items:
                {{- range .databaseSecret }}
                - key: {{ index $values.database.secret (printf "%sKey" .) | quote }}
                  path: {{ . }}-password
                {{- end }}
          {{- end }}
          {{- if or .rclone $values.python.image.repository }}
          - name: tools
            emptyDir:
              sizeLimit: 256Mi
          {{- end }}
          {{- with .scratch }}
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
          {{- range .volumes }}
          - name: {{ .name }}
            {{- toYaml .source | nindent 12 }}
          {{- end }}
{{- end }}
