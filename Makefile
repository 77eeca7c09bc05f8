# `make up` and `make test` do all the set-up themselves on a machine with Go, gcc, git and apt.
SHELL := /bin/bash
.DELETE_ON_ERROR:

KUBERNETES_VERSION := v$(shell sed -n 's,^\tk8s.io/api v0\.\([0-9.]*\).*,1.\1,p' go.mod)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# nri_no_wasm: no WebAssembly runtime for containerd plugins that nobody loads here (3 MB).
GOFLAGS := -trimpath -tags=nri_no_wasm
LDFLAGS := -s -w -X wherry.dev/wherry/api/version.Wherry=$(VERSION) -X wherry.dev/wherry/api/version.Kubernetes=$(KUBERNETES_VERSION)
KUBECTL_LDFLAGS := -s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION) -X k8s.io/client-go/pkg/version.gitVersion=$(KUBERNETES_VERSION)

B := .build
PROGRAMS := embedded/programs/files
IMAGES := embedded/images/files
EMBEDDED := $(addprefix $(PROGRAMS)/,containerd-shim-runc-v2.zst runc.zst wherry-cni.zst kubectl.zst) $(addprefix $(IMAGES)/,pause.tar.zst sample.tar.zst)

.PHONY: build up down test test-all lint packages bench clean FORCE

build: $(EMBEDDED)
	CGO_ENABLED=0 go build $(GOFLAGS) -ldflags '$(LDFLAGS)' -o bin/wherry ./cmd/wherry

# What the build (libseccomp) and the tests (iproute2, nftables, ...) need of Debian; nothing when it is there.
packages: $(B)/packages
$(B)/packages: hack/packages
	@mkdir -p $(B)
	hack/packages
	@touch $@

$(B)/pack: $(wildcard embedded/images/build/*.go) go.mod
	@mkdir -p $(B)
	CGO_ENABLED=0 go build $(GOFLAGS) -o $@ ./embedded/images/build

# A cluster on this machine with the sample app on it: `make up NODES=3`, and `make down` takes it away again.
up: build
	hack/up
down:
	@[ -x bin/wherry ] || $(MAKE) build
	bin/wherry down --name $(or $(NAME),default)

# The tests are compiled as the program is, so that everything is compiled once, and what is tested is what is shipped. Those
# that bring up whole clusters come last and one package at a time: they are about this machine's processes, and look at its clock.
GOTEST := CGO_ENABLED=0 WHERRY_BINARY=$(CURDIR)/bin/wherry go test $(GOFLAGS)
WHOLE := ./test/whole ./test/faults

test: packages build
	$(GOTEST) -p 2 -timeout 15m $$(go list ./... | grep -v -E '/test/(whole|faults)$$')
	$(GOTEST) -p 1 -count=1 -timeout 10m $(WHOLE)

# The lot: all of it under the race detector too (but the generated and the whole clusters), fifty kills of the server, and a little fuzzing.
test-all: lint test
	CGO_ENABLED=1 go test $(GOFLAGS) -race -p 2 -timeout 60m $$(go list ./... | grep -v -E '/test/|/api/openapi')
	WHERRY_KILL_ROUNDS=50 $(GOTEST) -count=1 -timeout 30m -v -run TestServerKilled ./test/faults
	hack/fuzz $(or $(FUZZTIME),10s)

lint:
	@out=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); [ -z "$$out" ] || { echo "gofmt -w these:"; echo "$$out"; exit 1; }
	CGO_ENABLED=0 go vet $(GOFLAGS) ./...
	$(GOTEST) ./test/house

# The small programs of others: rebuilt when their versions change.
$(B)/containerd-shim-runc-v2: go.mod
	@mkdir -p $(B)
	CGO_ENABLED=0 go build $(GOFLAGS) -tags no_grpc -ldflags '-s -w' -o $@ github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
$(B)/runc: go.mod $(B)/packages
	CGO_ENABLED=1 go build $(GOFLAGS) -tags 'seccomp osusergo netgo' -ldflags "-s -w -extldflags '-static'" -o $@ github.com/opencontainers/runc
$(B)/kubectl: go.mod $(wildcard cmd/kubectl/*.go)
	@mkdir -p $(B)
	CGO_ENABLED=0 go build $(GOFLAGS) -ldflags '$(KUBECTL_LDFLAGS)' -o $@ ./cmd/kubectl

# Our own: the Go build cache knows better than make whether anything changed, so that the file is replaced only then.
$(B)/wherry-cni: FORCE
	@mkdir -p $(B)
	@CGO_ENABLED=0 go build $(GOFLAGS) -ldflags '-s -w' -o $@.new ./cmd/wherry-cni && { cmp -s $@.new $@ && rm $@.new || mv $@.new $@; }
$(B)/sample: FORCE
	@mkdir -p $(B)
	@CGO_ENABLED=0 go build $(GOFLAGS) -ldflags '-s -w' -o $@.new ./embedded/images/sample && { cmp -s $@.new $@ && rm $@.new || mv $@.new $@; }
$(B)/pause: embedded/images/pause/pause.c
	@mkdir -p $(B)
	gcc -Os -static -nostdlib -nostartfiles -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables -Wall -Wextra -Werror -Wl,--build-id=none -Wl,-z,noseparate-code -s -o $@ $<

$(PROGRAMS)/%.zst: $(B)/% $(B)/pack
	$(B)/pack pack -to $@ $<
$(IMAGES)/pause.tar.zst: $(B)/pause $(B)/pack
	$(B)/pack image -name wherry.dev/pause:1 -program $< -user 65535:65535 -to $@
$(IMAGES)/sample.tar.zst: $(B)/sample $(B)/pack
	$(B)/pack image -name wherry.dev/sample:1 -program $< -user 65532:65532 -port 8080 -to $@
FORCE:

clean:
	rm -rf bin $(B) $(PROGRAMS)/*.zst $(IMAGES)/*.zst
