"""Authentication and authorisation by the API server, remembered so that readers neither wait nor fail.

    guard = KubernetesGuard(ApiReviews(api), clock, metrics)    # kube.reviews; audiences=…, times=Times(grace=…)
    App(…, guard=guard)             # guard.check(request, needs): the user, or Problem 401, 403, 503
    streams = Streams(guard)        # App(…, streams=streams); streams.run() looks at open ones again
    await guard.close()

| module | tells |
| --- | --- |
| bearer | the Authorization header -> a token, and what it says of itself |
| known | answers by age: at once, asked for again behind it, awaited, or honoured because nobody answers |
| asking | how many questions at once, and whether anybody answers |
| guard | a request and its needs -> a user or a problem |
| streams | open streams, looked at again |
"""

from configregistry.serve.auth.guard import AUDIENCE, KubernetesGuard, Reviews
from configregistry.serve.auth.known import Times
from configregistry.serve.auth.streams import Streams

__all__ = ["AUDIENCE", "KubernetesGuard", "Reviews", "Streams", "Times"]
