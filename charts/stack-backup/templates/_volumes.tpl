{{/* Claims and volumes. All are kept when the release is uninstalled: no data goes with it. */}}

{{/* A claim that the cluster's provisioner serves: context, name, volume {size, storageClass, accessModes}. */}}
{{- define "stack-backup.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name | quote }}
  namespace: {{ .context.Release.Namespace | quote }}
  labels:
    {{- include "stack-backup.labels" .context | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  accessModes: {{ toJson .volume.accessModes }}
  {{- with .volume.storageClass }}
  storageClassName: {{ eq . "-" | ternary "" . | quote }}
  {{- end }}
  resources:
    requests:
      storage: {{ .volume.size | quote }}
{{- end }}

{{/*
An export of an NFS server as a volume and the claim that is bound to it: context, name, volume {nfs, size}, written.
Where this release does not write it, the volume itself is read-only.
*/}}
{{- define "stack-backup.nfs" }}
---
apiVersion: v1
kind: PersistentVolume
metadata:
  name: {{ printf "%s-%s" .context.Release.Namespace .name | quote }}
  labels:
    {{- include "stack-backup.labels" .context | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  capacity:
    storage: {{ .volume.size | quote }}
  accessModes: [{{ ternary "ReadWriteMany" "ReadOnlyMany" .written }}]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ""
  mountOptions: {{ toJson .volume.nfs.mountOptions }}
  claimRef:
    apiVersion: v1
    kind: PersistentVolumeClaim
    namespace: {{ .context.Release.Namespace | quote }}
    name: {{ .name | quote }}
  nfs:
    server: {{ .volume.nfs.server | quote }}
    path: {{ .volume.nfs.path | quote }}
    {{- if not .written }}
    readOnly: true
    {{- end }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .name | quote }}
  namespace: {{ .context.Release.Namespace | quote }}
  labels:
    {{- include "stack-backup.labels" .context | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  accessModes: [{{ ternary "ReadWriteMany" "ReadOnlyMany" .written }}]
  storageClassName: ""
  volumeName: {{ printf "%s-%s" .context.Release.Namespace .name | quote }}
  resources:
    requests:
      storage: {{ .volume.size | quote }}
{{- end }}
