// Command certs writes the keys and certificates of a test cluster.
//
// It exists so that the Python driver needs neither openssl nor a cryptography
// package, and so that a cluster of prebuilt binaries (KUBEBUILDER_ASSETS) has
// certificates too: it uses the standard library alone and builds in seconds.
// It reads one JSON request from standard input. It never overwrites a key:
// a name that is already there is an error, apart from the authority, which
// is made by the first request for a directory and used by all later ones.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	authority = "ca"
	// A cluster that was left running for months still has to work, and these
	// certificates are worth nothing outside of the loopback interface.
	lifetime = 10 * 365 * 24 * time.Hour
	// A clock that is set back a little after the start must not invalidate them.
	backdate = time.Hour
)

type request struct {
	Directory    string        `json:"directory"`
	Certificates []certificate `json:"certificates"`
	// Requests are keys with a signing request (NAME.csr) for another authority.
	Requests []certificate `json:"requests"`
	// KeyPairs are plain keys (NAME.key and NAME.pub), for service account tokens.
	KeyPairs []string `json:"key_pairs"`
}

type certificate struct {
	Name          string   `json:"name"`
	CommonName    string   `json:"common_name"`
	Organizations []string `json:"organizations"`
	// Hosts make it a server's certificate as well as a client's.
	Hosts []string `json:"hosts"`
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "certs:", err)
		os.Exit(1)
	}
}

func run() error {
	var asked request
	decoder := json.NewDecoder(os.Stdin)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&asked); err != nil {
		return fmt.Errorf("the request is not understood: %w", err)
	}
	for _, name := range asked.KeyPairs {
		if err := writeKeyPair(asked.Directory, name); err != nil {
			return err
		}
	}
	for _, wanted := range asked.Requests {
		if err := writeRequest(asked.Directory, wanted); err != nil {
			return err
		}
	}
	if len(asked.Certificates) == 0 {
		return nil
	}
	signer, signerKey, err := loadOrMakeAuthority(asked.Directory)
	if err != nil {
		return err
	}
	for _, wanted := range asked.Certificates {
		if err := writeCertificate(asked.Directory, wanted, signer, signerKey); err != nil {
			return err
		}
	}
	return nil
}

func loadOrMakeAuthority(directory string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	encoded, err := os.ReadFile(filepath.Join(directory, authority+".crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return makeAuthority(directory)
	}
	if err != nil {
		return nil, nil, err
	}
	encodedKey, err := os.ReadFile(filepath.Join(directory, authority+".key"))
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(encoded)
	keyBlock, _ := pem.Decode(encodedKey)
	if block == nil || keyBlock == nil {
		return nil, nil, fmt.Errorf("the authority in %s is not PEM", directory)
	}
	signer, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	return signer, key, err
}

func makeAuthority(directory string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	template, err := newTemplate(pkix.Name{CommonName: "test cluster"})
	if err != nil {
		return nil, nil, err
	}
	template.IsCA = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	key, err := writeKey(directory, authority)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	if err := writePEM(directory, authority+".crt", "CERTIFICATE", der); err != nil {
		return nil, nil, err
	}
	signer, err := x509.ParseCertificate(der)
	return signer, key, err
}

func writeCertificate(directory string, wanted certificate, signer *x509.Certificate, signerKey *ecdsa.PrivateKey) error {
	template, err := newTemplate(subject(wanted))
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(wanted.Hosts) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, host := range wanted.Hosts {
		if address := net.ParseIP(host); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	key, err := writeKey(directory, wanted.Name)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, key.Public(), signerKey)
	if err != nil {
		return err
	}
	return writePEM(directory, wanted.Name+".crt", "CERTIFICATE", der)
}

func writeRequest(directory string, wanted certificate) error {
	key, err := writeKey(directory, wanted.Name)
	if err != nil {
		return err
	}
	template := &x509.CertificateRequest{Subject: subject(wanted)}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return err
	}
	return writePEM(directory, wanted.Name+".csr", "CERTIFICATE REQUEST", der)
}

func writeKeyPair(directory, name string) error {
	key, err := writeKey(directory, name)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return writePEM(directory, name+".pub", "PUBLIC KEY", der)
}

func writeKey(directory, name string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(directory, name+".key", "EC PRIVATE KEY", der)
}

func writePEM(directory, name, kind string, der []byte) error {
	file, err := os.OpenFile(filepath.Join(directory, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(pem.Encode(file, &pem.Block{Type: kind, Bytes: der}), file.Close())
}

func subject(wanted certificate) pkix.Name {
	return pkix.Name{CommonName: wanted.CommonName, Organization: wanted.Organizations}
}

func newTemplate(name pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               name,
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(lifetime),
		BasicConstraintsValid: true,
	}, nil
}
