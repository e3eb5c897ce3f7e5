{{- define "eventwagon.name" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) }}
{{- $name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "eventwagon.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (printf "%s-observer" (include "eventwagon.name" .)) }}{{ else }}{{ required "serviceAccount.name: which ServiceAccount, when none is to be created?" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "eventwagon.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{/* Of Pods: what never changes. The managed-by of a worker's is the orchestrator's own. */}}
{{- define "eventwagon.observers" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: observer
{{- end }}

{{- define "eventwagon.workers" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: worker
{{- end }}

{{- define "eventwagon.cleanup" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: cleanup
{{- end }}

{{/* To names, and to these ports. */}}
{{- define "eventwagon.egress" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
- ports:
    {{- range . }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{/* What may reach observers and workers: nobody, or whoever asks for their metrics. */}}
{{- define "eventwagon.ingress" -}}
{{- if .Values.metrics.enabled }}
- ports:
    - {protocol: TCP, port: {{ .Values.metrics.port }}}
{{- else }}[]{{ end }}
{{- end }}

{{- define "eventwagon.image" -}}
{{- with .Values.image }}
{{- if and .tag .digest }}{{ fail "image: give a tag or a digest, not both" }}{{ end }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ required "image: give a tag or a digest" .tag }}{{ end }}
{{- end }}
{{- end }}

{{/* What the Pod Security Standard "restricted" wants, and a root file system that nobody writes to. */}}
{{- define "eventwagon.podSecurity" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "eventwagon.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The user's Pod template for workers: see the page of the orchestrator. */}}
{{- define "eventwagon.template" -}}
{{- $worker := dict "name" "worker" "imagePullPolicy" .Values.image.pullPolicy "resources" .Values.workers.resources }}
{{- $env := .Values.env }}
{{- with .Values.metrics }}{{ if .enabled }}
{{- $port := dict "name" "EVENTWAGON_METRICS_PORT" "value" (toString .port) }}
{{- $env = concat $env (list $port (dict "name" "EVENTWAGON_METRICS_HOST" "value" "0.0.0.0")) }}
{{- $_ := set $worker "ports" (list (dict "name" "metrics" "containerPort" (int .port))) }}
{{- end }}{{ end }}
{{- if $env }}{{ $_ := set $worker "env" $env }}{{ end }}
{{- $worker = mergeOverwrite $worker (deepCopy .Values.workers.container) }}
{{- $others := list }}
{{- range .Values.workers.spec.containers }}{{ $others = append $others . }}{{ end }}
{{- $selector := dict "matchLabels" (include "eventwagon.workers" . | fromYaml) }}
{{- $spread := dict "maxSkew" 1 "topologyKey" "kubernetes.io/hostname" "whenUnsatisfiable" "ScheduleAnyway" "labelSelector" $selector "matchLabelKeys" (list "eventwagon/unit") }}
{{- $spec := dict "topologySpreadConstraints" (list $spread) }}
{{- if .Values.imagePullSecrets }}{{ $_ := set $spec "imagePullSecrets" .Values.imagePullSecrets }}{{ end }}
{{- $spec = mergeOverwrite $spec (deepCopy .Values.workers.spec) (dict "containers" (concat (list $worker) $others)) }}
{{- $labels := mergeOverwrite (deepCopy .Values.workers.labels) (include "eventwagon.workers" . | fromYaml) }}
{{- toYaml (dict "metadata" (dict "labels" $labels "annotations" .Values.workers.annotations) "spec" $spec) }}
{{- end }}

{{/* The metadata of what is there after `helm uninstall` for a moment. */}}
{{- define "eventwagon.hook" -}}
namespace: {{ .Release.Namespace }}
labels: {{- include "eventwagon.labels" . | nindent 2 }}
  app.kubernetes.io/component: cleanup
annotations:
  helm.sh/hook: post-delete
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}
