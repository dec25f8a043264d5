package httpd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/tnvfs/tnv"
)

// TLS says with what certificate to serve; the zero value: without.
type TLS struct {
	Cert, Key string // files, PEM
	// SelfMade is a directory in which a certificate of its own making is kept, made
	// if it is not there: for names that no authority vouches for. Clients have to be
	// told to trust it.
	SelfMade string
}

const selfMadeLife = 10 * 365 * 24 * time.Hour

// load finds the certificate; nil: TLS is not wanted.
func (t *TLS) load(listen string) (*tls.Certificate, error) {
	switch {
	case t.Cert != "" && t.Key != "":
		c, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, tnv.E("TLS", tnv.KindInvalid, "%v", err)
		}
		return &c, nil
	case t.Cert != "" || t.Key != "":
		return nil, tnv.E("TLS", tnv.KindInvalid, "a certificate and its key are both needed")
	case t.SelfMade == "":
		return nil, nil
	}
	file := filepath.Join(t.SelfMade, "tls.pem")
	c, err := tls.LoadX509KeyPair(file, file)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeCertificate(file, listen); err != nil {
			return nil, tnv.Wrap("make a certificate", err)
		}
		c, err = tls.LoadX509KeyPair(file, file)
	}
	if err != nil {
		return nil, tnv.E("TLS", tnv.KindInvalid, "%s: %v", file, err)
	}
	return &c, nil
}

// makeCertificate writes a key and a certificate for this machine's names into a file.
func makeCertificate(file, listen string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return err
	}
	now := time.Now()
	cert := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "TNV httpd"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(selfMadeLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true}
	cert.DNSNames, cert.IPAddresses = ownNames(listen)
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	if err != nil {
		return err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	out := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp := file + ".new"
	if err := os.WriteFile(tmp, out, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}

// ownNames are those under which this machine may be reached.
func ownNames(listen string) (dns []string, ips []net.IP) {
	dns = []string{"localhost"}
	if host, err := os.Hostname(); err == nil && host != "localhost" {
		dns = append(dns, host)
	}
	if host, _, err := net.SplitHostPort(listen); err == nil && host != "" && net.ParseIP(host) == nil && host != "localhost" {
		dns = append(dns, host)
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			ips = append(ips, n.IP)
		}
	}
	return dns, ips
}
