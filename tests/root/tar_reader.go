// What Go's archive/tar sees in archives: a line of JSON for each entry, and one for each archive's end.
//
// tests/root/tar_readers.rs builds and runs it. Contents are hashed as tests/support/tree.rs does it: each block of 4 KiB that isn't
// all zeros, with its place, up to the limit that the first argument says.
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"strconv"
)

type entry struct {
	Archive string
	Type    string
	Name    []byte
	Link    []byte
	Mode    int64
	Uid     int
	Gid     int
	Seconds int64
	Nanos   int
	Size    int64
	Major   int64
	Minor   int64
	Hash    string
	Xattrs  map[string][]byte
}

type end struct {
	End   string
	Error string
}

var zeros [4096]byte

func hash(from io.Reader, limit int64) (string, error) {
	sum := sha256.New()
	var at uint64
	buffer := make([]byte, 1<<20)
	from = io.LimitReader(from, limit)
	for {
		n, err := io.ReadFull(from, buffer)
		for block := 0; block < n; block += 4096 {
			last := block + 4096
			if last > n {
				for i := n; i < last; i++ {
					buffer[i] = 0
				}
			}
			if !bytes.Equal(buffer[block:last], zeros[:]) {
				var place [8]byte
				binary.LittleEndian.PutUint64(place[:], at+uint64(block))
				sum.Write(place[:])
				sum.Write(buffer[block:last])
			}
		}
		at += uint64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			// A file that is cut off ends in io.ErrUnexpectedEOF too; the next header tells.
			return hex.EncodeToString(sum.Sum(nil)[:12]), nil
		}
		if err != nil {
			return "", err
		}
	}
}

func read(path string, limit int64, out *json.Encoder) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	archive := tar.NewReader(bufio.NewReader(file))
	for {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		sum, err := hash(archive, limit)
		if err != nil {
			return err
		}
		seen := entry{
			Archive: path, Type: string([]byte{header.Typeflag}), Name: []byte(header.Name), Link: []byte(header.Linkname),
			Mode: header.Mode, Uid: header.Uid, Gid: header.Gid, Seconds: header.ModTime.Unix(), Nanos: header.ModTime.Nanosecond(),
			Size: header.Size, Major: header.Devmajor, Minor: header.Devminor, Hash: sum, Xattrs: map[string][]byte{},
		}
		for key, value := range header.PAXRecords {
			if len(key) > 13 && key[:13] == "SCHILY.xattr." {
				seen.Xattrs[key[13:]] = []byte(value)
			}
		}
		if err := out.Encode(seen); err != nil {
			return err
		}
	}
}

func main() {
	limit, err := strconv.ParseInt(os.Args[1], 10, 64)
	if err != nil {
		panic(err)
	}
	writer := bufio.NewWriter(os.Stdout)
	defer writer.Flush()
	out := json.NewEncoder(writer)
	for _, path := range os.Args[2:] {
		last := end{End: path}
		if err := read(path, limit, out); err != nil {
			last.Error = err.Error()
		}
		if err := out.Encode(last); err != nil {
			panic(err)
		}
	}
}
