{{/*
Claims and volumes: context, volume (its key of `volumes`). Each is made where a job mounts it and it names no claim that exists.
All are kept when the release is uninstalled: no data goes with it.
*/}}

{{/* What both kinds say of themselves: context, own (the volume's values). */}}
{{- define "stack-backup.kept" -}}
labels:
  {{- include "stack-backup.labelsOf" (dict "context" .context "labels" .own.labels) | nindent 2 }}
annotations:
  helm.sh/resource-policy: keep
  {{- with .own.annotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The values of a claim. What the history's leaves open is as the backup's, then as that of all claims: context, volume. */}}
{{- define "stack-backup.claimValues" -}}
{{- $volumes := .context.Values.volumes }}
{{- $own := deepCopy (index $volumes .volume) }}
{{- if eq .volume "history" }}
{{- range list "accessModes" "storageClass" }}
{{- $_ := set $own . (default (index $volumes.databaseBackup .) (index $own .)) }}
{{- end }}
{{- end }}
{{- toJson (set $own "accessModes" (default $volumes.accessModes $own.accessModes)) }}
{{- end }}

{{/* A claim that the cluster's provisioner serves. */}}
{{- define "stack-backup.claim" -}}
{{- $own := include "stack-backup.claimValues" . | fromJson }}
{{- $used := include "stack-backup.volumes" .context | fromJson }}
{{- if and (hasKey $used .volume) (not $own.existingClaim) -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include (printf "stack-backup.%sClaim" .volume) .context | quote }}
  namespace: {{ .context.Release.Namespace | quote }}
  {{- include "stack-backup.kept" (dict "context" .context "own" $own) | nindent 2 }}
spec:
  accessModes: {{ toJson $own.accessModes }}
  {{- with $own.storageClass }}
  storageClassName: {{ eq . "-" | ternary "" . | quote }}
  {{- end }}
  {{- with $own.volumeName }}
  volumeName: {{ . | quote }}
  {{- end }}
  resources:
    requests:
      storage: {{ $own.size | quote }}
{{- end }}
{{- end }}

{{/* An export of an NFS server: a volume, read-only where no job of this release writes it, and the claim bound to it. */}}
{{- define "stack-backup.export" -}}
{{- $own := index .context.Values.volumes .volume }}
{{- $used := include "stack-backup.volumes" .context | fromJson }}
{{- if and (hasKey $used .volume) (not $own.existingClaim) }}
{{- $written := eq "written" (index $used .volume) }}
{{- $name := include (printf "stack-backup.%sClaim" .volume) .context }}
{{- $volume := printf "%s-%s" .context.Release.Namespace $name }}
---
apiVersion: v1
kind: PersistentVolume
metadata:
  name: {{ $volume | quote }}
  {{- include "stack-backup.kept" (dict "context" .context "own" $own) | nindent 2 }}
spec:
  capacity:
    storage: {{ $own.size | quote }}
  accessModes: [{{ ternary "ReadWriteMany" "ReadOnlyMany" $written }}]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  mountOptions: {{ toJson $own.nfs.mountOptions }}
  claimRef:
    apiVersion: v1
    kind: PersistentVolumeClaim
    namespace: {{ .context.Release.Namespace | quote }}
    name: {{ $name | quote }}
  nfs:
    server: {{ $own.nfs.server | quote }}
    path: {{ $own.nfs.path | quote }}
    {{- if not $written }}
    readOnly: true
    {{- end }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ $name | quote }}
  namespace: {{ .context.Release.Namespace | quote }}
  {{- include "stack-backup.kept" (dict "context" .context "own" $own) | nindent 2 }}
spec:
  accessModes: [{{ ternary "ReadWriteMany" "ReadOnlyMany" $written }}]
  storageClassName: ""
  volumeName: {{ $volume | quote }}
  resources:
    requests:
      storage: {{ $own.size | quote }}
{{- end }}
{{- end }}
