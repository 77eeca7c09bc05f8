package kinds

import "strings"

// imageTag returns the tag that a reference to an image names: the one it spells out, "latest" when it has neither
// tag nor digest, and nothing when it has a digest only or is no reference at all. The grammar is that of
// the distribution project's references.
func imageTag(image string) string {
	rest, digest, hasDigest := strings.Cut(image, "@")
	if hasDigest && !isDigest(digest) {
		return ""
	}
	name, tag := rest, ""
	if colon := strings.LastIndexByte(rest, ':'); colon > strings.LastIndexByte(rest, '/') {
		name, tag = rest[:colon], rest[colon+1:]
		if !isTag(tag) {
			return ""
		}
	}
	if !isRepository(name) {
		return ""
	}
	if tag == "" && !hasDigest {
		return "latest"
	}
	return tag
}

// isRepository reports whether name is [domain/]path with a total length of up to 255 once Docker Hub's domain and
// "library" are filled in.
func isRepository(name string) bool {
	if len(name) == 64 && strings.Trim(name, "0123456789abcdef") == "" {
		return false // an image ID
	}
	domain, path := "docker.io", name
	if first, rest, ok := strings.Cut(name, "/"); ok && isDomainLike(first) {
		if !isDomain(first) {
			return false
		}
		domain, path = first, rest
		if domain == "index.docker.io" {
			domain = "docker.io"
		}
	}
	if domain == "docker.io" && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	if len(path) > 255 {
		return false
	}
	for len(path) > 0 {
		component, rest, more := strings.Cut(path, "/")
		if !isPathComponent(component) || more && rest == "" {
			return false
		}
		path = rest
	}
	return name != "" && !strings.HasSuffix(name, "/")
}

// isDomainLike reports whether the part before the first slash can only be a host.
func isDomainLike(s string) bool {
	return strings.ContainsAny(s, ".:") || s == "localhost" || strings.ToLower(s) != s
}

// isDomain reports whether s is host[:port]; the host is dotted labels or a bracketed IPv6 address.
func isDomain(s string) bool {
	host := s
	if colon := strings.LastIndexByte(s, ':'); colon >= 0 && !strings.HasSuffix(s, "]") {
		port := s[colon+1:]
		if port == "" || strings.Trim(port, "0123456789") != "" {
			return false
		}
		host = s[:colon]
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") && len(host) > 2 {
		return strings.Trim(host[1:len(host)-1], "0123456789abcdefABCDEF:") == ""
	}
	for {
		label, rest, more := strings.Cut(host, ".")
		if label == "" || !alnum(label[0]) || !alnum(label[len(label)-1]) {
			return false
		}
		for i := 0; i < len(label); i++ {
			if !alnum(label[i]) && label[i] != '-' {
				return false
			}
		}
		if !more {
			return true
		}
		host = rest
	}
}

// isPathComponent reports whether s is lower-case words joined by one dot, one or two underscores, or dashes.
func isPathComponent(s string) bool {
	if s == "" || !lowerAlnum(s[0]) || !lowerAlnum(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if lowerAlnum(s[i]) {
			i++
			continue
		}
		j := i
		for !lowerAlnum(s[j]) { // ends: the last byte is a letter or digit
			j++
		}
		switch sep := s[i:j]; {
		case sep == ".", sep == "_", sep == "__":
		case strings.Trim(sep, "-") == "":
		default:
			return false
		}
		i = j
	}
	return true
}

func isTag(s string) bool {
	if s == "" || len(s) > 128 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !alnum(c) && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// isDigest reports whether s is algorithm:hex with one of the algorithms that the image specification registers.
func isDigest(s string) bool {
	algorithm, hex, _ := strings.Cut(s, ":")
	length := map[string]int{"sha256": 64, "sha384": 96, "sha512": 128}[algorithm]
	return length > 0 && len(hex) == length && strings.Trim(hex, "0123456789abcdef") == ""
}
