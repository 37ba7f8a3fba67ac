{{/*
What the operator may do. Each verb is here because something fails without it: tests/integration/test_chart_rbac.py
takes each of them away. Rules of one verb set each, so that a diff shows what was added.
*/}}

{{/* In each namespace that is looked after. */}}
{{- define "configregistry.serveRules" -}}
- {apiGroups: [configregistry.dev], resources: [configregistries], verbs: [get, list, watch]}
# The contents of versions.
- {apiGroups: [apps], resources: [controllerrevisions], verbs: [get, list, watch]}
{{- end -}}

{{- define "configregistry.controllerRules" -}}
- {apiGroups: [configregistry.dev], resources: [configregistries], verbs: [get, list, watch]}
- {apiGroups: [configregistry.dev], resources: [configregistries/status], verbs: [update]}
- {apiGroups: [apps], resources: [controllerrevisions], verbs: [get, list, watch, create, patch, delete]}
# dataFrom reads them, spec.project writes them.
- {apiGroups: [""], resources: [configmaps], verbs: [get, list, watch, create, patch, delete]}
- {apiGroups: [events.k8s.io], resources: [events], verbs: [create, patch]}
# Checks of kind workload.
- {apiGroups: [apps], resources: [deployments, statefulsets, daemonsets], verbs: [get]}
- {apiGroups: [apps], resources: [replicasets], verbs: [list]}
- {apiGroups: [""], resources: [pods], verbs: [list]}
{{- end -}}

{{/* In the whole cluster, whatever is looked after. */}}
{{- define "configregistry.serveClusterRules" -}}
{{- if eq .Values.serve.auth "kubernetes" -}}
# Who asks, and what they may.
- {apiGroups: [authentication.k8s.io], resources: [tokenreviews], verbs: [create]}
- {apiGroups: [authorization.k8s.io], resources: [subjectaccessreviews], verbs: [create]}
{{- end -}}
{{- end -}}

{{- define "configregistry.controllerClusterRules" -}}
- {apiGroups: [configregistry.dev], resources: [rolloutpolicies], verbs: [get, list, watch]}
# Which policies they name, and whether they are being deleted.
- apiGroups: [""]
  resources: [namespaces]
  {{- with .Values.namespaces }}
  resourceNames: {{ toJson . }}
  {{- end }}
  verbs: [get, list, watch]
{{- if eq .Values.serve.auth "kubernetes" }}
# Asking the replicas for their consumers, which are of all namespaces.
- {apiGroups: [configregistry.dev], resources: [configregistries/consumers-exchange], verbs: [update]}
{{- end }}
{{- if and .Values.webhook.enabled (not .Values.webhook.certManager.enabled) }}
# Having API servers trust its certificate.
- apiGroups: [admissionregistration.k8s.io]
  resources: [validatingwebhookconfigurations]
  resourceNames: [{{ include "configregistry.fullname" . }}]
  verbs: [get, patch]
{{- end }}
{{- end -}}

{{/* In the namespace of the release. */}}
{{- define "configregistry.releaseRules" -}}
# The Lease; `create` knows no names.
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [create]}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "configregistry.fullname" . }}]
  verbs: [get, update]
# Where the replicas of serve are.
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list]}
{{- if and .Values.webhook.enabled (not .Values.webhook.certManager.enabled) }}
# Its certificate.
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ include "configregistry.fullname" . }}-webhook]
  verbs: [get, patch]
{{- end }}
{{- end -}}

{{/* A role and its binding. Give root, component, kind, suffix, namespace (empty: the cluster's), rules. */}}
{{- define "configregistry.granted" -}}
{{- $name := printf "%s-%s" (include "configregistry.fullname" .root) .component -}}
{{- with .suffix -}}{{- $name = printf "%s-%s" $name . -}}{{- end -}}
{{- $kind := ternary "Role" "ClusterRole" (not (empty .namespace)) }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "configregistry.labels" (dict "root" .root "component" .component) | nindent 4 }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ $kind }}Binding
metadata:
  name: {{ $name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "configregistry.labels" (dict "root" .root "component" .component) | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ $kind }}
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "configregistry.serviceAccount" (dict "root" .root "component" .component) }}
    namespace: {{ .root.Release.Namespace }}
{{- end -}}
