//! People of four languages.
//!
//! Owns: names, addresses, phone numbers and accounts that look like those of real people, and are not. Must not know:
//! events. Keeps: e-mail addresses are at domains that nobody can have (RFC 2606); the same seed gives the same people.

use fake::faker::address::raw::StreetName;
use fake::faker::name::raw::{FirstName, LastName};
use fake::faker::phone_number::raw::CellNumber;
use fake::locales::{DE_DE, EN, FR_FR, JA_JP};
use fake::rand::Rng;
use fake::rand::rngs::StdRng;
use fake::{Dummy, Fake};
use serde_json::{Value, json};

/// A person; all values but the number are personal.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    /// Number from 0; the external id is `p` and this number.
    pub number: u64,
    /// Full name in the person's own script.
    pub name: String,
    /// Address at a domain that nobody has (RFC 2606).
    pub email: String,
    /// Mobile number in the country's form.
    pub phone: String,
    /// Street, postal code, city, country.
    pub address: Value,
    /// Account for payments; the check digits are right.
    pub iban: String,
    /// What the person eats.
    pub diet: &'static str,
}

impl Person {
    /// The external id.
    pub fn id(&self) -> String {
        format!("p{}", self.number)
    }
}

/// Makes a person up: the number decides the language, everything else is random.
pub fn person(number: u64, rng: &mut StdRng) -> Person {
    match number % 4 {
        0 => western(number, EN, ("GB", &["London", "Leeds", "Bristol", "Oxford", "York"]), rng),
        1 => western(number, FR_FR, ("FR", &["Paris", "Lyon", "Nîmes", "Besançon", "Orléans"]), rng),
        2 => western(number, DE_DE, ("DE", &["Köln", "München", "Lübeck", "Dresden", "Münster"]), rng),
        _ => japanese(number, rng),
    }
}

fn western<L: Copy>(number: u64, locale: L, country: (&str, &[&str]), rng: &mut StdRng) -> Person
where
    String: Dummy<FirstName<L>> + Dummy<LastName<L>> + Dummy<StreetName<L>> + Dummy<CellNumber<L>>,
{
    let first: String = FirstName(locale).fake_with_rng(rng);
    let last: String = LastName(locale).fake_with_rng(rng);
    let street: String = StreetName(locale).fake_with_rng(rng);
    let street = format!("{street} {}", rng.random_range(1..200));
    let phone = CellNumber(locale).fake_with_rng(rng);
    assemble(number, (format!("{first} {last}"), &last), phone, (street, country), rng)
}

fn japanese(number: u64, rng: &mut StdRng) -> Person {
    let first: String = FirstName(JA_JP).fake_with_rng(rng);
    let last: String = LastName(JA_JP).fake_with_rng(rng);
    let district: String = LastName(JA_JP).fake_with_rng(rng);
    let street = format!("{district}町{}-{}", rng.random_range(1..10), rng.random_range(1..30));
    let phone = CellNumber(JA_JP).fake_with_rng(rng);
    let country = ("JP", ["東京", "大阪", "京都", "札幌", "福岡"].as_slice());
    assemble(number, (format!("{last} {first}"), &last), phone, (street, country), rng)
}

fn assemble(
    number: u64,
    (name, last): (String, &str),
    phone: String,
    (street, (country, cities)): (String, (&str, &[&str])),
    rng: &mut StdRng,
) -> Person {
    let local: String = last.chars().filter(char::is_ascii_alphabetic).collect::<String>().to_lowercase();
    let local = if local.is_empty() { "mail".to_owned() } else { local };
    let top = ["com", "net", "org"][rng.random_range(0..3)];
    let diet = ["none", "vegetarian", "vegan", "gluten-free", "halal", "nut allergy"][rng.random_range(0..6)];
    let city = cities[rng.random_range(0..cities.len())];
    let postal_code = format!("{:05}", rng.random_range(1000..99_999));
    Person {
        number,
        name,
        email: format!("{local}.{}@example.{top}", rng.random_range(1..10_000)),
        phone,
        address: json!({"street": street, "postal_code": postal_code, "city": city, "country": country}),
        iban: iban(rng.random_range(10_000_000..100_000_000), rng.random_range(0..10_000_000_000)),
        diet,
    }
}

/// A German IBAN (ISO 13616) of bank code and account number, with its ISO 7064 mod 97-10 check digits.
fn iban(bank: u64, account: u64) -> String {
    let number = u128::from(bank) * 10_000_000_000 + u128::from(account);
    // `DE00` moved behind the number and letters counted from A = 10: 13 14 00.
    let check = 98 - (number * 1_000_000 + 131_400) % 97;
    format!("DE{check:02}{number:018}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_digits_of_a_known_account() {
        // The example of the ISO 13616 registry for Germany.
        assert_eq!(iban(37_040_044, 532_013_000), "DE89370400440532013000");
    }
}
