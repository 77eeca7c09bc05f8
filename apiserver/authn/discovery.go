package authn

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/go-jose/go-jose/v4"
)

// Paths of OpenID discovery of service-account tokens (KEP-1393), for parties that verify them without asking the API server.
const (
	OpenIDConfigurationPath = "/.well-known/openid-configuration"
	OpenIDKeysPath          = "/openid/v1/jwks"
)

// OpenIDHandlers returns the two handlers of OpenID discovery by path. externalURL is where users reach the API server,
// such as https://10.0.0.1:6443.
func (s *ServiceAccounts) OpenIDHandlers(externalURL string) (map[string]http.Handler, error) {
	keysURL := s.keysURL
	if keysURL == "" {
		keysURL = externalURL + OpenIDKeysPath
	}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	algorithms := []string{}
	for _, key := range s.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Key, KeyID: key.ID, Algorithm: string(key.Algorithm), Use: "sig"})
		algorithms = append(algorithms, string(key.Algorithm))
	}
	keys, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encode service-account keys: %w", err)
	}
	configuration, err := json.Marshal(struct {
		Issuer        string   `json:"issuer"`
		Keys          string   `json:"jwks_uri"`
		ResponseTypes []string `json:"response_types_supported"`
		SubjectTypes  []string `json:"subject_types_supported"`
		Algorithms    []string `json:"id_token_signing_alg_values_supported"`
	}{s.issuers[0], keysURL, []string{"id_token"}, []string{"public"}, algorithms})
	if err != nil {
		return nil, fmt.Errorf("encode OpenID configuration: %w", err)
	}
	return map[string]http.Handler{
		OpenIDConfigurationPath: document("application/json", configuration),
		OpenIDKeysPath:          document("application/jwk-set+json", keys),
	}, nil
}

func document(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(body) // the client went away
	})
}
