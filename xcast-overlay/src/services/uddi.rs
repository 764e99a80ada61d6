//! What a registry of UDDI answers (version 3.0.2, `serviceDetail`), as descriptions.
//!
//! There is no server of UDDI to be had any more, so this is a format, and tested as one: against an
//! answer in the form that the specification gives.

use std::collections::BTreeMap;

use quick_xml::{
    Reader,
    escape::unescape,
    events::{BytesStart, Event},
};
use thiserror::Error;

use super::entry::Service;
use crate::places::Place;

/// The mechanism's name.
pub const MECHANISM: &str = "uddi";

/// The group of categories that are coordinates of the World Geodetic System. Its members' keys say
/// which.
const COORDINATES: &str = "uddi:uddi.org:ubr:categorizationgroup:wgs84";

/// Why a text is no such answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum UddiError {
    /// It is no XML.
    #[error("line {line} of the answer is no XML: {problem}")]
    Syntax {
        /// Counted from one.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// It is another document.
    #[error("answer has no serviceDetail")]
    NoDetail,
}

/// The services of a `serviceDetail`, with or without an envelope of SOAP around it: one for each access
/// point. Its name, description, keys and categories are attributes. Its place is what the group of
/// WGS 84 categories says, in degrees.
///
/// # Errors
///
/// It is no such answer.
pub fn services(xml: &str) -> Result<Vec<Service>, UddiError> {
    let mut reader = Reader::from_str(xml);
    let mut found = Found::default();
    loop {
        let event = reader.read_event();
        let syntax = |problem: String| UddiError::Syntax {
            line: 1 + xml[..reader.buffer_position() as usize]
                .matches('\n')
                .count(),
            problem,
        };
        match event.map_err(|error| syntax(error.to_string()))? {
            Event::Eof => break,
            Event::Start(element) => found.start(&element).map_err(syntax)?,
            Event::Empty(element) => {
                found.start(&element).map_err(syntax)?;
                found.end(element.local_name().as_ref());
            }
            Event::End(element) => found.end(element.local_name().as_ref()),
            Event::Text(content) => {
                let content = content.decode();
                found.text += &content.map_err(|error| syntax(error.to_string()))?;
            }
            Event::CData(content) => {
                let content = content.decode();
                found.text += &content.map_err(|error| syntax(error.to_string()))?;
            }
            // `&amp;` and the like are events of their own.
            Event::GeneralRef(reference) => {
                let name = reference.decode();
                let name = name.map_err(|error| syntax(error.to_string()))?;
                let reference = format!("&{name};");
                let content = unescape(&reference);
                found.text += &content.map_err(|error| syntax(error.to_string()))?;
            }
            _ => {}
        }
    }
    match found.has_detail {
        true => Ok(found.services),
        false => Err(UddiError::NoDetail),
    }
}

/// What has been read.
#[derive(Default)]
struct Found {
    has_detail: bool,
    /// Text since the last tag.
    text: String,
    /// Elements that are not closed, the outermost first.
    open: Vec<Vec<u8>>,
    /// Of the present service.
    attributes: BTreeMap<String, String>,
    place: (Option<f64>, Option<f64>),
    /// Within a group of coordinates.
    in_coordinates: bool,
    access_points: Vec<String>,
    services: Vec<Service>,
}

impl Found {
    fn start(&mut self, element: &BytesStart<'_>) -> Result<(), String> {
        let name = element.local_name().as_ref().to_vec();
        self.text.clear();
        match name.as_slice() {
            b"serviceDetail" => self.has_detail = true,
            b"businessService" => {
                self.attributes.clear();
                self.place = (None, None);
                self.access_points.clear();
                for key in ["serviceKey", "businessKey"] {
                    if let Some(value) = attribute(element, key)? {
                        self.attributes.insert(key.to_owned(), value);
                    }
                }
            }
            b"keyedReferenceGroup" => {
                let group = attribute(element, "tModelKey")?.unwrap_or_default();
                self.in_coordinates = group.eq_ignore_ascii_case(COORDINATES);
            }
            b"keyedReference" => {
                let system = attribute(element, "tModelKey")?.unwrap_or_default();
                let value = attribute(element, "keyValue")?.unwrap_or_default();
                match system.rsplit(':').next() {
                    Some("latitude") if self.in_coordinates => self.place.0 = value.parse().ok(),
                    Some("longitude") if self.in_coordinates => self.place.1 = value.parse().ok(),
                    _ => {
                        let name = attribute(element, "keyName")?.unwrap_or(system);
                        self.attributes.insert(name, value);
                    }
                }
            }
            _ => {}
        }
        self.open.push(name);
        Ok(())
    }

    fn end(&mut self, name: &[u8]) {
        self.open.pop();
        let text = self.text.trim().to_owned();
        self.text.clear();
        let within = self.open.last().map_or(&b""[..], Vec::as_slice);
        match (within, name) {
            // Names and descriptions may be repeated in other languages: the first counts.
            (b"businessService", b"name" | b"description") => {
                let name = String::from_utf8_lossy(name).into_owned();
                self.attributes.entry(name).or_insert(text);
            }
            (_, b"keyedReferenceGroup") => self.in_coordinates = false,
            (b"bindingTemplate", b"accessPoint") => self.access_points.push(text),
            (_, b"businessService") => {
                let (latitude, longitude) = self.place;
                let place = latitude
                    .zip(longitude)
                    .and_then(|(latitude, longitude)| Place::new(latitude, longitude).ok());
                let services = self.access_points.drain(..).map(|uri| Service {
                    mechanism: MECHANISM.to_owned(),
                    uri,
                    attributes: self.attributes.clone(),
                    place,
                });
                self.services.extend(services);
            }
            _ => {}
        }
    }
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Result<Option<String>, String> {
    let found = element
        .try_get_attribute(name)
        .map_err(|error| error.to_string())?;
    let Some(found) = found else { return Ok(None) };
    let value = str::from_utf8(&found.value).map_err(|error| error.to_string())?;
    let value = unescape(value).map_err(|error| error.to_string())?;
    Ok(Some(value.into_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        krpc::signing_key,
        services::{Entry, Query},
    };

    /// In the form that UDDI 3.0.2 gives (section 5.1.14 and appendix A).
    const ANSWER: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/">
  <soapenv:Body>
    <serviceDetail xmlns="urn:uddi-org:api_v3" truncated="false">
      <businessService serviceKey="uddi:example.org:orders" businessKey="uddi:example.org:trade">
        <name xml:lang="en">Orders &amp; invoices</name>
        <name xml:lang="de">Bestellungen</name>
        <description xml:lang="en">Takes orders for <![CDATA[<all>]]> branches</description>
        <bindingTemplates>
          <bindingTemplate bindingKey="uddi:example.org:orders:soap" serviceKey="uddi:example.org:orders">
            <description xml:lang="en">SOAP 1.1</description>
            <accessPoint useType="endPoint">http://orders.example.org:8080/soap?v=1&amp;w=2</accessPoint>
            <tModelInstanceDetails>
              <tModelInstanceInfo tModelKey="uddi:uddi.org:protocol:soap"/>
            </tModelInstanceDetails>
          </bindingTemplate>
          <bindingTemplate bindingKey="uddi:example.org:orders:mail" serviceKey="uddi:example.org:orders">
            <accessPoint useType="endPoint">mailto:orders@example.org</accessPoint>
          </bindingTemplate>
        </bindingTemplates>
        <categoryBag>
          <keyedReference tModelKey="uddi:uddi.org:ubr:categorization:naics:2002" keyName="wholesale" keyValue="42"/>
          <keyedReferenceGroup tModelKey="uddi:uddi.org:ubr:categorizationgroup:wgs84">
            <keyedReference tModelKey="uddi:uddi.org:ubr:categorization:wgs84:latitude" keyName="WGS 84 latitude" keyValue="+52.52"/>
            <keyedReference tModelKey="uddi:uddi.org:ubr:categorization:wgs84:longitude" keyName="WGS 84 longitude" keyValue="+013.405"/>
          </keyedReferenceGroup>
        </categoryBag>
      </businessService>
      <businessService serviceKey="uddi:example.org:plan" businessKey="uddi:example.org:trade">
        <name>Only planned</name>
      </businessService>
    </serviceDetail>
  </soapenv:Body>
</soapenv:Envelope>
"#;

    #[test]
    fn a_recorded_answer_is_published_and_found() {
        let services = services(ANSWER).expect("an answer");
        let uris: Vec<&str> = services
            .iter()
            .map(|service| service.uri.as_str())
            .collect();
        assert_eq!(
            uris,
            [
                "http://orders.example.org:8080/soap?v=1&w=2",
                "mailto:orders@example.org"
            ]
        );
        let orders = &services[0];
        for (name, value) in [
            ("name", "Orders & invoices"),
            ("description", "Takes orders for <all> branches"),
            ("serviceKey", "uddi:example.org:orders"),
            ("wholesale", "42"),
        ] {
            assert_eq!(orders.attributes[name], value);
        }
        let place = orders.place.expect("a place");
        assert_eq!((place.latitude(), place.longitude()), (52.52, 13.405));
        let key = signing_key([1; 32]);
        let entry = Entry::sign(&key, orders.clone(), 1, 100).expect("an entry");
        let query = Query {
            mechanism: Some(MECHANISM.to_owned()),
            text: vec!["invoi*".parse().expect("a pattern")],
            area: None,
        };
        assert!(query.matches(&Entry::decode(&entry.encode()).expect("an entry").service));
    }

    #[test]
    fn what_is_no_answer() {
        let fault = "<Envelope><Body><Fault/></Body></Envelope>";
        assert_eq!(services(fault), Err(UddiError::NoDetail));
        assert_eq!(services(""), Err(UddiError::NoDetail));
        let broken = services("<serviceDetail>\n<businessService>\n</serviceDetail>");
        assert!(
            matches!(broken, Err(UddiError::Syntax { line: 3, .. })),
            "{broken:?}"
        );
        assert_eq!(services("<serviceDetail/>"), Ok(Vec::new()));
    }

    proptest! {
        #[test]
        fn damage_does_no_harm(
            at in any::<prop::sample::Index>(),
            character in prop::sample::select(vec!["<", ">", "&", "\"", "/", "ü", ""]),
        ) {
            let mut at = at.index(ANSWER.len());
            while !ANSWER.is_char_boundary(at) {
                at -= 1;
            }
            let damaged = format!("{}{character}{}", &ANSWER[..at], &ANSWER[at + 1..]);
            let _ = services(&damaged);
        }
    }
}
