//! The engine's own protobuf against `prost`, in both directions.

use std::collections::BTreeMap;

use prost::bytes::Buf;
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message as _};
use pymesh_engine::base::protobuf::{sanitized, Fields, Malformed, Message, Value};

use crate::input::Input;
use crate::strict::show;

/// A flag, then a message of somebody else, or what one of ours is to hold.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() {
        write(&mut input);
    } else {
        read(input.rest());
    }
}

/// What a field holds, so that it can be compared.
#[derive(Clone, Debug, PartialEq)]
enum Held {
    Number(u64),
    Octets(Vec<u8>),
    /// The octets of a double, which need not be a number.
    Fixed64(u64),
    Fixed32,
}

fn held(value: Value<'_>) -> Held {
    match value {
        Value::Number(number) => Held::Number(number),
        Value::Octets(octets) => Held::Octets(octets.to_vec()),
        Value::Double(double) => Held::Fixed64(double.to_bits()),
        Value::Fixed32 => Held::Fixed32,
    }
}

fn fields(data: &[u8]) -> Vec<Result<(u32, Held), Malformed>> {
    Fields(data).map(|field| field.map(|(number, value)| (number, held(value)))).collect()
}

/// A message whose fields `prost` takes apart.
#[derive(Debug, Default)]
struct Heard {
    fields: Vec<(u32, Held)>,
    /// Groups have been given up long ago; no message here has one, and ours refuses them.
    has_group: bool,
}

impl prost::Message for Heard {
    fn encode_raw(&self, _: &mut impl prost::bytes::BufMut) {}

    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        from: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        let held = match wire {
            WireType::Varint => {
                let mut number = 0;
                encoding::uint64::merge(wire, &mut number, from, context)?;
                Held::Number(number)
            }
            WireType::SixtyFourBit => {
                let mut number = 0;
                encoding::fixed64::merge(wire, &mut number, from, context)?;
                Held::Fixed64(number)
            }
            WireType::LengthDelimited => {
                let mut octets = Vec::new();
                encoding::bytes::merge(wire, &mut octets, from, context)?;
                Held::Octets(octets)
            }
            WireType::ThirtyTwoBit => {
                encoding::skip_field(wire, tag, from, context)?;
                Held::Fixed32
            }
            WireType::StartGroup | WireType::EndGroup => {
                self.has_group = true;
                return encoding::skip_field(wire, tag, from, context);
            }
        };
        self.fields.push((tag, held));
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        0
    }

    fn clear(&mut self) {
        *self = Heard::default();
    }
}

fn read(data: &[u8]) {
    let ours = fields(data);
    let whole: Result<Vec<_>, Malformed> = ours.iter().cloned().collect();
    match Heard::decode(data) {
        Ok(heard) if heard.has_group => assert!(whole.is_err(), "a group is read in {}", show(data)),
        Ok(heard) => assert_eq!(whole.as_ref(), Ok(&heard.fields), "{}", show(data)),
        Err(error) => assert!(whole.is_err(), "{error}, but {ours:?} is read in {}", show(data)),
    }
    let errors = ours.iter().filter(|field| field.is_err()).count();
    assert!(errors == 0 || errors == 1 && ours.last().is_some_and(Result::is_err), "something is read behind an error");
    // Where it breaks off, what was there is what it was.
    for at in (0..data.len()).filter(|at| *at < 128 || at + 8 > data.len()) {
        let part = fields(&data[..at]);
        let known = part.iter().take_while(|field| field.is_ok()).count();
        assert!(ours.len() >= known && part[..known] == ours[..known], "after {at} octets of {}", show(data));
    }
    let Ok(whole) = whole else { return };
    let mut again = Message::default();
    for (number, held) in whole.iter().filter(|(_, held)| *held != Held::Fixed32) {
        match held {
            Held::Number(value) => again.chosen_number(*number, *value),
            Held::Octets(octets) => again.chosen_octets(*number, octets),
            Held::Fixed64(bits) => again.fixed64(*number, *bits),
            Held::Fixed32 => {}
        }
    }
    let length = again.len();
    let again = again.into_octets();
    assert!(length == again.len() && length <= data.len(), "what is written is not the shortest form");
    let read: Vec<_> = fields(&again).into_iter().map(Result::unwrap).collect();
    assert_eq!(read, whole.into_iter().filter(|(_, held)| *held != Held::Fixed32).collect::<Vec<_>>());
}

/// Fields of each kind that ours can write, in the order of their numbers, as `prost` writes them.
#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(int32, tag = "2")]
    enumerator: i32,
    #[prost(bytes = "vec", tag = "3")]
    octets: Vec<u8>,
    #[prost(string, tag = "4")]
    text: String,
    #[prost(double, optional, tag = "5")]
    double: Option<f64>,
    #[prost(fixed64, optional, tag = "6")]
    fixed64: Option<u64>,
    #[prost(message, repeated, tag = "16")]
    inner: Vec<Sample>,
    #[prost(btree_map = "string, string", tag = "17")]
    entries: BTreeMap<String, String>,
    #[prost(oneof = "Chosen", tags = "2047, 2048, 536870911")]
    chosen: Option<Chosen>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Chosen {
    #[prost(uint64, tag = "2047")]
    Number(u64),
    #[prost(bytes = "vec", tag = "2048")]
    Octets(Vec<u8>),
    #[prost(message, tag = "536870911")]
    Nothing(()),
}

fn write(input: &mut Input<'_>) {
    let mut ours = Message::default();
    let sample = sample(input, &mut ours, 4);
    let is_empty = ours.is_empty();
    let octets = ours.into_octets();
    let theirs = sample.encode_to_vec();
    assert_eq!(show(&octets), show(&theirs), "{sample:?}");
    assert_eq!(is_empty, octets.is_empty());
    let read = Sample::decode(&octets[..]);
    assert!(read.is_ok_and(|read| read.encode_to_vec() == theirs), "{}", show(&octets));
    assert!(fields(&octets).iter().all(Result::is_ok), "{}", show(&octets));
}

/// The same, said to both.
fn sample(input: &mut Input<'_>, ours: &mut Message, depth: usize) -> Sample {
    let mut sample = Sample::default();
    let number = |input: &mut Input<'_>| {
        let wide = u64::from(input.long()) << 32 | u64::from(input.long());
        wide >> input.below(64)
    };
    let has = input.octet();
    if has & 1 != 0 {
        sample.number = number(input);
        ours.number(1, sample.number);
        sample.enumerator = i32::from(input.octet());
        ours.number(2, u64::from(sample.enumerator.unsigned_abs()));
    }
    if has & 2 != 0 {
        sample.octets = input.string().to_vec();
        ours.octets(3, &sample.octets);
    }
    if has & 4 != 0 {
        let text = input.string();
        sample.text = with_marks(text);
        ours.text(4, text);
    }
    if has & 8 != 0 {
        let double = f64::from_bits(number(input));
        sample.double = Some(double);
        ours.double(5, double);
    }
    if has & 16 != 0 {
        let value = number(input);
        sample.fixed64 = Some(value);
        ours.fixed64(6, value);
    }
    if has & 32 != 0 && depth > 0 {
        for _ in 0..input.below(3) {
            ours.message(16, |inner| sample.inner.push(self::sample(input, inner, depth - 1)));
        }
    }
    if has & 64 != 0 {
        let entries: BTreeMap<String, (&[u8], &[u8])> = (0..input.below(4))
            .map(|_| (input.string(), input.string()))
            .map(|(key, value)| (with_marks(key), (key, value)))
            .collect();
        for (text, (key, value)) in entries {
            ours.entry(17, key, value);
            sample.entries.insert(text, with_marks(value));
        }
    }
    if has & 128 != 0 {
        // Written apart and put behind, as those do that know a part before the whole.
        let mut apart = Message::default();
        sample.chosen = Some(match input.below(3) {
            0 => {
                let value = number(input);
                apart.chosen_number(2047, value);
                Chosen::Number(value)
            }
            1 => {
                let octets = input.string();
                apart.chosen_octets(2048, octets);
                Chosen::Octets(octets.to_vec())
            }
            _ => {
                apart.message(536_870_911, |_| {});
                Chosen::Nothing(())
            }
        });
        ours.append(apart);
    }
    sample
}

/// The text, with a mark for each octet that is none.
fn with_marks(mut octets: &[u8]) -> String {
    let mut text = String::new();
    let whole = octets;
    while !octets.is_empty() {
        // The longest beginning of up to four octets that is one character.
        let one = (1..=octets.len().min(4)).find_map(|length| std::str::from_utf8(&octets[..length]).ok());
        text.push_str(one.unwrap_or("!"));
        octets = &octets[one.map_or(1, str::len)..];
    }
    assert_eq!(sanitized(whole), text.as_bytes());
    text
}
