{{/*
The one shape of every job: a CronJob's spec, from its jobs' rules to their pod. A job's template states only what is
its own, in a dict:

  context        the root context
  component      the job's name; it is the program's name in files/ too
  values         schedule, timeZone, suspend, deadlineSeconds, startingDeadlineSeconds and resources
  backoffLimit   retries of one run
  grace          seconds between TERM and KILL
  env            further environment: a map of name to value
  databaseSecret whether the superuser's password is mounted
  volumes        further volumes: a list of {name, mountPath, readOnly, source}
*/}}
{{- define "stack-backup.cronJobSpec" -}}
{{- $values := .context.Values -}}
schedule: {{ .values.schedule | quote }}
timeZone: {{ .values.timeZone | quote }}
suspend: {{ .values.suspend }}
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
        containers:
          - name: {{ .component }}
            image: {{ include "stack-backup.image" $values.database.image | quote }}
            imagePullPolicy: {{ $values.database.image.pullPolicy }}
            command: ["/bin/bash", "/programs/{{ .component }}.sh"]
            securityContext:
              allowPrivilegeEscalation: false
              readOnlyRootFilesystem: true
              capabilities:
                drop: [ALL]
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
              - name: DEADLINE_SECONDS
                value: {{ .values.deadlineSeconds | quote }}
              - name: TERMINATION_LOG
                value: /dev/termination-log
              - name: HOME
                value: /tmp
              - name: TMPDIR
                value: /tmp
              {{- range $name, $value := .env }}
              - name: {{ $name }}
                value: {{ $value | toString | quote }}
              {{- end }}
            resources:
              {{- toYaml .values.resources | nindent 14 }}
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
                - key: {{ $values.database.secret.superuserKey | quote }}
                  path: superuser-password
          {{- end }}
          {{- range .volumes }}
          - name: {{ .name }}
            {{- toYaml .source | nindent 12 }}
          {{- end }}
{{- end }}
