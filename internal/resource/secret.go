package resource

import (
	"regexp"
	"strings"
)

// SecretRef names a sealed secret. The secret itself is never in a resource.
type SecretRef struct {
	Sealed string `json:"sealed"`
}

var secretName = regexp.MustCompile(`^[a-z][a-z0-9/-]{0,62}$`)

const wantSecret = "want the name of a sealed secret: lower-case letters, digits, hyphens and /"

// Places of secrets that leave by what the tenant declares, or are asked for by it.
// Who declares a target chooses its address, so it gets a secret of its place and no
// other, and no agent or source gets one of these.
const (
	PlaceNotify  = "notify"
	placeSignals = "signals"
)

// problem is what is wrong with the name of a secret that an agent or a source has.
func (r SecretRef) problem() string {
	place, _, _ := strings.Cut(r.Sealed, "/")
	switch {
	case !secretName.MatchString(r.Sealed):
		return wantSecret
	case place == PlaceNotify || place == placeSignals: // the place itself too: a stage's own secret is NAME/STAGE
		return "is a name of secrets for " + place + " alone: store it under another"
	}
	return ""
}

// problemIn is what is wrong with the name of a secret of a place.
func (r SecretRef) problemIn(place string) string {
	if !secretName.MatchString(r.Sealed) || !strings.HasPrefix(r.Sealed, place+"/") {
		return "want the name of a sealed secret for " + place + " alone: " + place + "/NAME"
	}
	return ""
}

const noSecrets = "a secret is never written into a file: store it with `sallyport secret put NAME` and give secret: {sealed: NAME}"

// Hint is for those who write the password where its name belongs.
func (CredentialSourceSpec) Hint(field string) string { return secretHint(field) }

// Hint is for those who write the password where its name belongs.
func (SecretRef) Hint(field string) string {
	if field == "" {
		return noSecrets
	}
	return secretHint(field)
}

func secretHint(field string) string {
	for _, w := range []string{"password", "passwd", "secret", "token", "key", "value", "plain", "inline", "credential"} {
		if strings.Contains(strings.ToLower(field), w) {
			return noSecrets
		}
	}
	return ""
}
