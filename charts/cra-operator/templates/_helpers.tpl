{{- define "cra-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "cra-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "cra-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "cra-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "cra-operator.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "cra-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: cra
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "cra-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "cra-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Name of an image: (list <values of the image> <tag to use where none is given>). */}}
{{- define "cra-operator.image" -}}
{{- $image := index . 0 -}}
{{- with $image.registry }}{{ . | trimSuffix "/" }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default (index . 1) $image.tag }}{{ end -}}
{{- end }}

{{/* What the operator may do to the jobs that it looks after, in all namespaces or in those of watchNamespaces. */}}
{{- define "cra-operator.jobRules" -}}
- apiGroups: [cra.dev]
  resources: [cratrainingjobs]
  verbs: [get, list, watch, delete]
- apiGroups: [cra.dev]
  resources: [cratrainingjobs/status]
  verbs: [patch]
# Pods name their job as an owner that waits for them; some clusters ask for this right in return.
- apiGroups: [cra.dev]
  resources: [cratrainingjobs/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
# GPUs that a namespace may have.
- apiGroups: [""]
  resources: [resourcequotas]
  verbs: [get, list, watch]
# Server-side apply. They go with their job by garbage collection.
- apiGroups: [""]
  resources: [services, persistentvolumeclaims]
  verbs: [create, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
