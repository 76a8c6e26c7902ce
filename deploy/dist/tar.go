package main

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// file is what goes into an archive. A name that ends in a slash is a
// directory's.
type file struct {
	name string // with slashes, relative
	mode fs.FileMode
	data []byte
}

// tarOf makes an archive that depends on nothing but its arguments: sorted, with
// the directories that the files are in, and all of it root's.
func tarOf(files []file, at time.Time) ([]byte, error) {
	all := make(map[string]file)
	for _, f := range files {
		all[f.name] = f
		for dir := path.Dir(strings.TrimSuffix(f.name, "/")); dir != "."; dir = path.Dir(dir) {
			if _, ok := all[dir+"/"]; !ok {
				all[dir+"/"] = file{name: dir + "/", mode: 0o755}
			}
		}
	}
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names) // a directory is before what is in it

	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range names {
		f := all[name]
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: name, Mode: int64(f.mode), Size: int64(len(f.data)),
			ModTime: at, Uname: "root", Gname: "root", Format: tar.FormatUSTAR,
		}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return b.Bytes(), err
}
