package store

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// latest is the revision of a token that continues at whatever is current, inconsistently: what a client gets who came back
// too late.
const latest = -1

// token is where a list goes on, in upstream's format, so that it does not matter which API server serves the next page.
type token struct {
	Version  string `json:"v"`
	Revision int64  `json:"rv"`
	Start    string `json:"start"` // first key of the next page, below the list's prefix
}

const tokenVersion = "meta.k8s.io/v1"

func encodeToken(start string, revision int64) string {
	b, err := json.Marshal(token{tokenVersion, revision, start})
	if err != nil {
		panic(err) // a struct of strings and numbers
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeToken reads a continue parameter. The error is a 400 in upstream's words.
func decodeToken(text string) (start string, revision int64, err error) {
	bad := func(err error) (string, int64, error) {
		return "", 0, apierrors.NewBadRequest(fmt.Sprintf("invalid continue token: %v", err))
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return bad(fmt.Errorf("continue key is not valid: %w", err))
	}
	var t token
	if err := json.Unmarshal(b, &t); err != nil {
		return bad(fmt.Errorf("continue key is not valid: %w", err))
	}
	switch {
	case t.Version != tokenVersion:
		return bad(fmt.Errorf("continue key is not valid: server does not recognize this encoded version %v", t.Version))
	case t.Revision == 0 || t.Revision < latest:
		return bad(errors.New("continue key is not valid: incorrect encoded start resourceVersion (version meta.k8s.io/v1)"))
	case t.Start == "":
		return bad(errors.New("continue key is not valid: encoded start key empty (version meta.k8s.io/v1)"))
	}
	// A start that climbs out of the list's prefix would read what the caller may not.
	key := t.Start
	if !strings.HasPrefix(key, "/") {
		key = "/" + key
	}
	if path.Clean(key) != key {
		return bad(fmt.Errorf("continue key is not valid: %v", t.Start))
	}
	return key[1:], t.Revision, nil
}
