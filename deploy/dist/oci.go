package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"
)

// The parts of the OCI image format (image-spec v1.1: descriptor.md,
// manifest.md, config.md, image-index.md, image-layout.md) that one layer
// needs.
type (
	descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int               `json:"size"`
		Platform    *platform         `json:"platform,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	platform struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
	}
	index struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}
	manifest struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}
	imageConfig struct {
		Created      time.Time `json:"created"`
		Architecture string    `json:"architecture"`
		OS           string    `json:"os"`
		Config       runConfig `json:"config"`
		RootFS       rootFS    `json:"rootfs"`
		History      []history `json:"history"`
	}
	runConfig struct {
		Env        []string          `json:"Env"`
		Entrypoint []string          `json:"Entrypoint"`
		Cmd        []string          `json:"Cmd"`
		WorkingDir string            `json:"WorkingDir"`
		Labels     map[string]string `json:"Labels"`
	}
	rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
	history struct {
		Created   time.Time `json:"created"`
		CreatedBy string    `json:"created_by"`
	}
)

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// image is an image layout in the making: its blobs by their digests.
type image struct{ files []file }

// add keeps a blob.
func (i *image) add(mediaType string, data []byte) descriptor {
	hex := fmt.Sprintf("%x", sha256.Sum256(data))
	i.files = append(i.files, file{"blobs/sha256/" + hex, 0o644, data})
	return descriptor{MediaType: mediaType, Digest: "sha256:" + hex, Size: len(data)}
}

// addJSON keeps what is written as JSON.
func (i *image) addJSON(mediaType string, v any) (descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	return i.add(mediaType, data), nil
}

// ociImage makes an image layout, as a tar: for each architecture one layer
// with the binary and the empty directories that a sandbox covers. "podman
// load", "docker load" and "skopeo copy oci-archive:" take it.
func ociImage(binaries map[string][]byte, version string, at time.Time) ([]byte, error) {
	var img image
	platforms := index{SchemaVersion: 2, MediaType: typeIndex}
	for _, arch := range archs {
		binary, ok := binaries[arch]
		if !ok {
			continue
		}
		d, err := img.addPlatform(arch, binary, version, at)
		if err != nil {
			return nil, err
		}
		platforms.Manifests = append(platforms.Manifests, d)
	}
	all, err := img.addJSON(typeIndex, platforms)
	if err != nil {
		return nil, err
	}
	name := "tcpbox:" + version
	all.Annotations = map[string]string{
		"org.opencontainers.image.ref.name": name, // for podman and skopeo
		"io.containerd.image.name":          name, // for docker and containerd
	}
	top, err := json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{all}})
	if err != nil {
		return nil, err
	}
	img.files = append(img.files,
		file{"index.json", 0o644, top},
		file{"oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)})
	return tarOf(img.files, at)
}

// addPlatform adds the image for one architecture.
func (i *image) addPlatform(arch string, binary []byte, version string, at time.Time) (descriptor, error) {
	files := []file{{"usr/bin/tcpbox", 0o755, binary}, {"tmp/", 0o1777, nil}}
	for _, dir := range []string{"dev/", "etc/", "proc/", "sys/"} {
		files = append(files, file{dir, 0o755, nil})
	}
	layer, err := tarOf(files, at)
	if err != nil {
		return descriptor{}, err
	}
	diffID := fmt.Sprintf("sha256:%x", sha256.Sum256(layer))
	packed, err := gzipOf(layer)
	if err != nil {
		return descriptor{}, err
	}
	m := manifest{SchemaVersion: 2, MediaType: typeManifest, Layers: []descriptor{i.add(typeLayer, packed)}}
	m.Config, err = i.addJSON(typeConfig, imageConfig{
		Created: at, Architecture: arch, OS: "linux",
		Config: runConfig{
			Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Entrypoint: []string{"/usr/bin/tcpbox"}, Cmd: []string{"help"}, WorkingDir: "/",
			Labels: map[string]string{
				"org.opencontainers.image.title":    "tcpbox",
				"org.opencontainers.image.version":  version,
				"org.opencontainers.image.licenses": "Apache-2.0",
			},
		},
		RootFS:  rootFS{Type: "layers", DiffIDs: []string{diffID}},
		History: []history{{Created: at, CreatedBy: "deploy/dist"}},
	})
	if err != nil {
		return descriptor{}, err
	}
	d, err := i.addJSON(typeManifest, m)
	d.Platform = &platform{Architecture: arch, OS: "linux"}
	return d, err
}
