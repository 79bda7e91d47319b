//! A message as `ltq sub` prints it.

use std::io::{self, Write};

use ltq_client::Received;

use super::args::Format;
use crate::record_json::Shown;

/// Writes one message and a newline.
pub(super) fn write(into: &mut impl Write, format: Format, received: &Received) -> io::Result<()> {
    match format {
        Format::Body => into.write_all(&received.message.body)?,
        Format::Json => serde_json::to_writer(&mut *into, &shown(received))?,
    }
    into.write_all(b"\n")
}

const fn shown(received: &Received) -> Shown<'_> {
    let Received { message, offset, time, attempt } = received;
    Shown { offset: *offset, time: *time, attempt: Some(*attempt), message }
}

#[cfg(test)]
mod tests {
    use ltq_client::{Message, Offset, Timestamp};

    use super::*;

    #[test]
    fn a_message_is_its_body_or_an_object() {
        let shown = |format| {
            let (offset, time) = (Offset(7), Timestamp(1_700_000_000_000));
            let message = Message::new("a b").with_key("k");
            let mut out = Vec::new();
            write(&mut out, format, &Received { message, offset, time, attempt: 2 }).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(Format::Body), "a b\n");
        assert_eq!(
            shown(Format::Json),
            "{\"offset\":7,\"time\":1700000000000,\"attempt\":2,\"key\":\"k\",\"headers\":[],\
             \"body\":\"a b\"}\n"
        );
    }
}
