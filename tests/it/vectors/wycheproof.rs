//! Wycheproof: the primitives under the formats, against the vectors that break bad implementations.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use hkdf::Hkdf;
use sha2::Sha256;
use wycheproof::{TestResult, aead, hkdf as kdf};

#[test]
fn aes_256_gcm() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let groups = set.test_groups.iter().filter(|g| (g.key_size, g.nonce_size, g.tag_size) == (256, 96, 128));
    let (mut valid, mut invalid) = (0, 0);
    for test in groups.flat_map(|group| &group.tests) {
        let cipher = Aes256Gcm::new_from_slice(&test.key).unwrap();
        let nonce: &[u8; 12] = test.nonce.as_slice().try_into().unwrap();
        let tag: &[u8; 16] = test.tag.as_slice().try_into().unwrap();
        let mut opened = vec![0; test.ct.len()];
        let buffer = InOutBuf::new(&test.ct, &mut opened).unwrap();
        let outcome = cipher.decrypt_inout_detached(nonce.into(), &test.aad, buffer, tag.into());
        if test.result == TestResult::Invalid {
            invalid += 1;
            assert!(outcome.is_err(), "case {} opens", test.tc_id);
            continue;
        }
        valid += 1;
        assert!(outcome.is_ok() && opened == test.pt.as_slice(), "case {} does not open", test.tc_id);
        let mut sealed = test.pt.to_vec();
        let made = cipher.encrypt_inout_detached(nonce.into(), &test.aad, InOutBuf::from(sealed.as_mut_slice()));
        assert_eq!(made.unwrap().as_slice(), tag, "case {}", test.tc_id);
        assert_eq!(sealed, test.ct.as_slice(), "case {}", test.tc_id);
    }
    assert!(valid > 30 && invalid > 20, "{valid} valid and {invalid} invalid cases ran");
}

#[test]
fn hkdf_sha_256() {
    let set = kdf::TestSet::load(kdf::TestName::HkdfSha256).unwrap();
    let mut ran = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let mut okm = vec![0; test.size];
        let outcome = Hkdf::<Sha256>::new(Some(&test.salt), &test.ikm).expand(&test.info, &mut okm);
        match test.result {
            TestResult::Invalid => assert!(outcome.is_err(), "case {}", test.tc_id),
            _ => assert!(outcome.is_ok() && okm == test.okm.as_slice(), "case {}", test.tc_id),
        }
        ran += 1;
    }
    assert!(ran > 50, "{ran} cases ran");
}
