{{/* What a schema cannot say: values that do not go together. */}}
{{- define "configregistry.checks" -}}
{{- with .Values.serve.autoscaling -}}
{{- if and .enabled (lt (int .maxReplicas) (int .minReplicas)) -}}
{{- fail (printf "serve.autoscaling.maxReplicas: %d: expected at least minReplicas, which is %d" (int .maxReplicas) (int .minReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.webhook.certManager.enabled (not .Values.webhook.enabled) -}}
{{- fail "webhook.certManager.enabled: true: expected webhook.enabled to be true as well, or there is nothing to certify" -}}
{{- end -}}
{{- range list "controller" "serve" -}}
{{- $values := get $.Values . -}}
{{- if le (int $values.terminationGracePeriodSeconds) (add (int $values.preStopSeconds) 5) -}}
{{- fail (printf "%s.terminationGracePeriodSeconds: %d: expected more than preStopSeconds and the 5 s that the end takes, which are %d" . (int $values.terminationGracePeriodSeconds) (add (int $values.preStopSeconds) 5)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
