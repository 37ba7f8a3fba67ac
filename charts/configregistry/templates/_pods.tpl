{{/* What the pods of both components have in common. Each takes (dict "root" $ "component" "serve"). */}}

{{- define "configregistry.podMetadata" -}}
{{- $values := get .root.Values .component -}}
labels:
  {{- /* Nothing that changes with the chart alone, or an update of it would restart everything. */}}
  {{- include "configregistry.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/part-of: configregistry
  {{- with .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "configregistry.podSpec" -}}
{{- $values := get .root.Values .component -}}
serviceAccountName: {{ include "configregistry.serviceAccount" . }}
automountServiceAccountToken: true
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- if $values.topologySpreadConstraints }}
  {{- toYaml $values.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  {{- $selector := include "configregistry.selector" . }}
  # Rather two in one place than one that waits. Each update counts its own pods: else its last ones, which are counted
  # beside those of the old, all end up together.
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
  {{- end }}
{{- end -}}

{{/* Image, environment, probes, limits: of the one container. */}}
{{- define "configregistry.container" -}}
{{- $values := get .root.Values .component -}}
image: {{ include "configregistry.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
{{- if or .root.Values.tracing.endpoint $values.extraEnv }}
env:
  {{- with .root.Values.tracing.endpoint }}
  - name: OTEL_EXPORTER_OTLP_ENDPOINT
    value: {{ . | quote }}
  - name: OTEL_SERVICE_NAME
    value: {{ printf "configregistry-%s" $.component }}
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  - name: OTEL_RESOURCE_ATTRIBUTES
    value: k8s.namespace.name={{ $.root.Release.Namespace }},k8s.pod.name=$(POD_NAME)
  {{- end }}
  {{- with $values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
# Two minutes to start: on a node that is busy Python alone takes seconds.
startupProbe:
  httpGet: {path: /livez, port: probes}
  periodSeconds: 2
  failureThreshold: 60
  timeoutSeconds: 3
# A minute of silence is a defect; an API server that is away is none, and /livez does not ask it.
livenessProbe:
  httpGet: {path: /livez, port: probes}
  periodSeconds: 10
  failureThreshold: 6
  timeoutSeconds: 5
# Says yes once everything is in memory, of a replica that stands by, too.
readinessProbe:
  httpGet: {path: /readyz, port: probes}
  periodSeconds: 2
  failureThreshold: 3
  timeoutSeconds: 3
{{- if and $values.preStopSeconds (semverCompare ">=1.30-0" .root.Capabilities.KubeVersion.Version) }}
lifecycle:
  preStop:
    sleep: {seconds: {{ $values.preStopSeconds }}}
{{- end }}
{{- end -}}

{{/* The arguments that both commands know. */}}
{{- define "configregistry.arguments" -}}
{{- $values := get .root.Values .component -}}
- {{ .component }}
- --host={{ .root.Values.listenAddress }}
- --probe-port=8081
- --log-format=json
- --log-level={{ .root.Values.logLevel }}
{{- with .root.Values.env }}
- --env={{ . }}
{{- end }}
{{- with .root.Values.cluster }}
- --cluster={{ . }}
{{- end }}
{{- range .root.Values.namespaces }}
- --namespace={{ . }}
{{- end }}
{{- if not .root.Values.metrics.perRegistry }}
- --no-registry-metrics
{{- end }}
{{- end -}}
