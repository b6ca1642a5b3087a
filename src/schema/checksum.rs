//! Check digits of account, card and identity numbers.
//!
//! Owns: the arithmetic. Must not know: where the texts come from. Inputs are upper-case ASCII without separators.
//! Sources: ISO 13616 (IBAN), ISO/IEC 7812 (cards), Real Decreto 1553/2005 (DNI, NIE), INSEE (NIR), ISO 7064 mod 11,10
//! (German tax id), SSA (US social security number).

/// Country and length of its IBANs (ISO 13616 registry). The length keeps hexadecimal identifiers out.
const IBAN_LENGTHS: &[(&str, usize)] = &[
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BR", 29),
    ("BY", 28),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FO", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GR", 27),
    ("GT", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MK", 19),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("NL", 18),
    ("NO", 15),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("SA", 24),
    ("SC", 31),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("ST", 25),
    ("SV", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
    ("VG", 24),
    ("XK", 20),
];

/// An IBAN: known country, its length, remainder 1.
pub(super) fn is_iban(text: &str) -> bool {
    let known = text.get(..2).and_then(|country| IBAN_LENGTHS.iter().find(|(code, _)| *code == country));
    if known.is_none_or(|(_, length)| *length != text.len())
        || !text.bytes().skip(2).take(2).all(|b| b.is_ascii_digit())
    {
        return false;
    }
    let (head, tail) = text.as_bytes().split_at(4);
    let remainder = tail.iter().chain(head).try_fold(0u32, |rest, byte| {
        let value = char::from(*byte).to_digit(36)?;
        Some(if value < 10 { rest * 10 + value } else { rest * 100 + value } % 97)
    });
    remainder == Some(1)
}

/// A payment card: the prefix and length of an issuer, and Luhn. Lengths other than the usual 14 to 16 only count where
/// the digits are written in groups, because plain numbers of 13 and 19 digits are mostly times and serials.
pub(super) fn is_card(text: &str, grouped: bool) -> bool {
    if !(13..=19).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let prefix = |digits: usize| text[..digits].parse::<u32>().unwrap_or(0);
    let issued = match text.len() {
        14 => matches!(prefix(3), 300..=305 | 309 | 360..=369 | 380..=399),
        15 => matches!(prefix(2), 34 | 37),
        16 => {
            prefix(1) == 4
                || matches!(prefix(2), 51..=55 | 62 | 65)
                || matches!(prefix(4), 2221..=2720 | 3528..=3589 | 6011)
                || matches!(prefix(3), 644..=649)
        }
        13 | 19 => grouped && matches!(prefix(1), 4 | 6),
        _ => false,
    };
    issued && luhn(text)
}

fn luhn(text: &str) -> bool {
    let sum: u32 = text
        .bytes()
        .rev()
        .enumerate()
        .map(|(at, byte)| {
            let digit = u32::from(byte - b'0');
            match (at % 2, digit * 2) {
                (0, _) => digit,
                (_, double) if double > 9 => double - 9,
                (_, double) => double,
            }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// A national identity or tax number with a check digit: Spain, France, Germany.
pub(super) fn is_national_id(text: &str) -> bool {
    match text.len() {
        9 => is_spanish(text),
        11 => is_german_tax_id(text),
        15 => is_french_nir(text),
        _ => false,
    }
}

fn is_spanish(text: &str) -> bool {
    const LETTERS: &[u8; 23] = b"TRWAGMYFPDXBNJZSQVHLCKE";
    let bytes = text.as_bytes();
    let first = match bytes[0] {
        b'X' => b'0',
        b'Y' => b'1',
        b'Z' => b'2',
        digit => digit,
    };
    let number = std::iter::once(&first)
        .chain(&bytes[1..8])
        .try_fold(0usize, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + usize::from(byte - b'0')));
    number.is_some_and(|number| LETTERS[number % 23] == bytes[8])
}

fn is_french_nir(text: &str) -> bool {
    // Corsica: 2A and 2B stand for 19 and 18.
    let body = match &text[5..7] {
        "2A" => format!("{}19{}", &text[..5], &text[7..13]),
        "2B" => format!("{}18{}", &text[..5], &text[7..13]),
        _ => text[..13].to_owned(),
    };
    let (Ok(number), Ok(key)) = (body.parse::<u64>(), text[13..].parse::<u64>()) else { return false };
    let month = body[3..5].parse::<u32>().unwrap_or(0);
    matches!(body.as_bytes()[0], b'1' | b'2') && matches!(month, 1..=12 | 20..=42 | 50..=99) && key == 97 - number % 97
}

fn is_german_tax_id(text: &str) -> bool {
    let Some(digits) = text.chars().map(|c| c.to_digit(10)).collect::<Option<Vec<u32>>>() else { return false };
    let (body, check) = (&digits[..10], digits[10]);
    let mut counts = [0u8; 10];
    for digit in body {
        counts[*digit as usize] += 1;
    }
    // Exactly one digit stands twice or three times, every other at most once.
    let repeated: Vec<&u8> = counts.iter().filter(|count| **count > 1).collect();
    if body[0] == 0 || repeated.len() != 1 || *repeated[0] > 3 {
        return false;
    }
    let product = body.iter().fold(10, |product, digit| {
        let sum = (digit + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    check == (11 - product) % 10
}

/// A US social security number as written: `AAA-GG-SSSS`, with the ranges that were never given out left out.
pub(super) fn is_us_ssn(text: &str) -> bool {
    let mut parts = text.split('-');
    let (Some(area), Some(group), Some(serial), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let sized = area.len() == 3 && group.len() == 2 && serial.len() == 4;
    sized
        && [area, group, serial].iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
        && !matches!(area, "000" | "666")
        && !area.starts_with('9')
        && group != "00"
        && serial != "0000"
}
