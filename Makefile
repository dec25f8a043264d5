# make build   everything into bin/
# make up      a cluster on this machine, mounted   (DIR=, MOUNT=, HTTP=, UPFLAGS=)
# make down    stop it
# make test    all tests; installs what they need, as root
# make race    the tests of all packages with the race detector
# make coherence  several mounts under fire, judged by porcupine   (OPS=1000000, SEED=, TRACKERS=)
# make chaos      one storage daemon in every kind of trouble: docs/chaos.md   (root; FAULT= for one of them)
# make programs   git, go, SQLite, PostgreSQL, rsync, dbench, stress-ng, fio on a mount (root)
# make house   a volume of 1,000,000 files moves from engine to engine: time, size, memory   (HOUSE=)
# make failover   three trackers on PostgreSQL, killed, frozen and stopped under load  (ROUNDS=100, SEED=)
# make page    the HTTP daemon's page, from its sources (npm); what is built is committed
# make page-check  that it is what its sources give (npm)
# make drain     a group with 5 GB is emptied under load, the tracker killed three times   (DRAINMB=)
# make lint    vet, staticcheck, the rules of the source tree
# make bench   the whole system against a local directory and the goals (root)
# make install PREFIX=/usr/local DESTDIR=

SHELL := /bin/bash
.DEFAULT_GOAL := build

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS := -s -w -X main.version=$(VERSION)
LINKS   := trackerd stored httpd mount.tnv

DIR   ?= .tnv
MOUNT ?= $(shell [ "$$(id -u)" = 0 ] && echo /mnt/media || echo "$$HOME/media")
HTTP  ?= 127.0.0.1:8080
UPFLAGS ?=

PREFIX  ?= /usr/local
DESTDIR ?=
# mount(8) looks for its helpers in /sbin only.
SBIN    ?= /sbin

# Tests of a package may run so long; all of them together stay below half an hour.
TESTTIME ?= 20m
RACETIME ?= 40m

# Of the long test of coherence. A history that fails is left here.
OPS  ?= 1000000
SEED ?= 0
TRACKERS ?= 1

# Files of the volume that moves house.
HOUSE ?= 1000000

# Of the long test of failovers.
ROUNDS ?= 100

.PHONY: build up down test race coherence chaos programs house failover drain page page-check lint bench install clean

build:
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/tnv ./tools/tnv
	@for l in $(LINKS); do ln -sfn tnv bin/$$l; done

up: build
	@bin/tnv up -d --dir '$(DIR)' --mount '$(MOUNT)' --http '$(HTTP)' $(UPFLAGS)

down: build
	@bin/tnv down --dir '$(DIR)'

# The whole system's tests measure waits: one package of them at a time. They build the
# program themselves, which the cache of test results does not see.
test: build
	@bash .ci/deps
	timeout -k 30 29m bash -c 'go test -timeout $(TESTTIME) $$(go list ./... | grep -v /e2e); r=$$?; go test -count=1 -p 1 -timeout $(TESTTIME) ./e2e/... || r=1; exit $$r'

race:
	@bash .ci/deps
	go test -race -timeout $(RACETIME) ./...

coherence: build
	go test -count=1 -timeout 24h -v -run 'TestCoherence$$' ./e2e/coherence -ops=$(OPS) -seed=$(SEED) -trackers=$(TRACKERS) -histories='$(CURDIR)'

chaos: build
	@bash .ci/deps
	go test -count=1 -timeout 1h -v ./e2e/chaos -long -fault='$(FAULT)' -table='$(if $(FAULT),,$(CURDIR)/docs/chaos.md)'

DRAINMB ?= 5120
drain: build
	go test -count=1 -timeout 2h -v -run 'TestDrain$$' ./e2e -drain-mb=$(DRAINMB)

programs: build
	@bash .ci/deps programs
	go test -count=1 -timeout 4h -v ./e2e/programs -long

house:
	go test -count=1 -timeout 1h -v -run 'TestMovingHouse$$' ./meta -house=$(HOUSE)

failover: build
	@bash .ci/deps
	go test -count=1 -timeout 24h -v ./e2e/failover -rounds=$(ROUNDS) -seed=$(SEED)

page:
	cd httpd/page/web && npm ci && npm run types && npm run build

page-check:
	@command -v npm >/dev/null || { echo "npm is missing"; exit 1; }
	go test -count=1 -v -run 'TestBuilt$$' ./httpd/page

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go' 2>/dev/null))" || { echo "not gofmt-ed:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go tool staticcheck ./...
	go test -count=1 ./lint

bench: build
	bash tools/bench/run.sh

install: build
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(SBIN)' '$(DESTDIR)$(PREFIX)/share/bash-completion/completions'
	install -m 0755 bin/tnv '$(DESTDIR)$(PREFIX)/bin/tnv'
	@for l in trackerd stored httpd; do ln -sfn tnv '$(DESTDIR)$(PREFIX)/bin/'$$l; done
	ln -sfn '$(PREFIX)/bin/tnv' '$(DESTDIR)$(SBIN)/mount.tnv'
	bin/tnv completion bash > '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/tnv'

clean:
	rm -rf bin
